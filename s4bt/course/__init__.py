"""What the lessons share.

exercise   an exercise, its hidden inputs, and the mistakes that it knows; exercises/ holds them
checks     check, hint, answer, and solutions that begin where their lesson ends
pictures   the style, and a slider that travels inside a page
physics    masses and springs, a heated rod
models     trained layers and networks of the study, and examples of two tasks
"""

from s4bt.lazy import attach

_HOMES = {
    "checks": ["answer", "check", "hint", "run_lesson"],
    "pictures": ["slider", "use_style"],
    "physics": ["balance", "chain", "modes", "rod"],
    "models": ["examples", "layer", "lti", "network"],
}
__getattr__, __dir__, __all__ = attach(
    __name__, {name: f"s4bt.course.{file}" for file, names in _HOMES.items() for name in names}
)
