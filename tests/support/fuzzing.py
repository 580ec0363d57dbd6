"""How many cases the tests with damaged files draw: few by default, thousands where the variable says so."""

import os

VARIABLE = "COREFACE_FUZZ_CASES"


def cases(few: int) -> int:
    return int(os.environ.get(VARIABLE, few))
