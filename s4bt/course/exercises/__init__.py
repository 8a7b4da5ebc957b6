"""The exercises of the lessons, one file a lesson; `s4bt.course.checks` loads them when asked."""
