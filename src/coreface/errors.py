"""The errors of this library. Each message says what was given, what was expected and what to do."""


class CoreFaceError(Exception):
    """Base of every error this library raises on purpose.

    Attributes:
        silent: whether another process of the same training failed first and reported why; None if the processes have
            not communicated.
    """

    silent: bool | None = None


class InputError(CoreFaceError, ValueError):
    """An argument of a public function has the wrong shape, type or range."""


class ImageError(CoreFaceError):
    """An image cannot be read: unknown format, damaged, or larger than the limits."""


class FaceError(CoreFaceError):
    """A photograph shows no face that can be used.

    Attributes:
        reason: ``no face``, ``several faces``, ``small face``, ``odd landmarks`` (points that are those of no face), or
            another of the quality limits, such as ``blurred``.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (str(self), self.reason)


class DataError(CoreFaceError):
    """A source of faces is missing, empty or does not fit what it is used for."""


class ModelError(CoreFaceError):
    """A backbone is unknown, or saved weights do not fit or cannot be trusted."""


class RecipeError(CoreFaceError):
    """A recipe or an override on the command line is not valid."""


class RunError(CoreFaceError):
    """A run folder exists already, is missing, or is not a run."""


class CheckpointError(CoreFaceError):
    """A checkpoint is damaged, is missing, or belongs to another run."""


class StorageError(CoreFaceError):
    """Files of a run or a gallery cannot be written: the disk is full, the folder is not writable, or the database is
    busy or not there."""


class ProcessLostError(CoreFaceError):
    """A process that trains with this one has died or did not start."""


class DivergedError(CoreFaceError):
    """Too many training steps in a row had a loss or gradient that is not finite."""


class TrainingStopped(KeyboardInterrupt):
    """Training was asked to stop, and did so after a whole step, with a checkpoint written.

    Attributes:
        signal: number of the signal, SIGINT (Ctrl-C) or SIGTERM.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


#: Failures of the machine or the training, not of the input.
MACHINE_FAILED = (StorageError, DivergedError, ProcessLostError)


class EvaluationError(CoreFaceError):
    """Scores or embeddings that cannot be evaluated: of one kind only, constant, or not finite."""


class ConstantEmbeddingsError(EvaluationError):
    """All embeddings are the same, so no score distinguishes two people."""


class GalleryError(CoreFaceError):
    """A gallery does not exist, is damaged, or cannot take what it was given."""


class UnknownPersonError(GalleryError):
    """A person or a template is not in the gallery."""


class PersonExistsError(GalleryError):
    """A person who was to be new is in the gallery already."""


class ContractError(GalleryError):
    """Embeddings of one pipeline were given to the gallery of another: their scores are not comparable."""


class MissingExtraError(CoreFaceError):
    """An optional dependency is needed for this call; the message names the extra that installs it."""
