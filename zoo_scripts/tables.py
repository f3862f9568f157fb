"""Files that scripts write: whole or not at all, and tables between two marks of a page."""

from sb3_pg.pages import put_between_marks, write_whole

__all__ = ["put_between_marks", "write_whole"]
