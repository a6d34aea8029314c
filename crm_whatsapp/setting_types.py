"""The durations of the settings, with their bounds."""

from typing import Annotated

from pydantic import Field

Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
Milliseconds = Annotated[int, Field(ge=0, le=3_600_000)]
