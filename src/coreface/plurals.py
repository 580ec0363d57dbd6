"""Numbers with their nouns in messages: 1 image, 2 images, 1 identity, 2 identities."""


def counted(number: int, noun: str) -> str:
    """Return a number and a noun, which is in the plural unless the number is 1.

    >>> counted(1, "identity"), counted(2, "identity")
    ('1 identity', '2 identities')
    """
    if number == 1:
        return f"1 {noun}"
    if noun == "person":
        return f"{number} people"
    if noun.endswith("y"):
        return f"{number} {noun[:-1]}ies"
    return f"{number} {noun}{'es' if noun.endswith(('s', 'ch')) else 's'}"
