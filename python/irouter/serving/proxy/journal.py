"""What the proxy logs: one JSON object a line, without headers, bodies or keys."""

import json
import logging
from typing import Any, Final

LOGGER: Final = logging.getLogger("irouter.serve")


class JsonFormatter(logging.Formatter):
    """Records as JSON: time, level, event and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        fields: dict[str, Any] = getattr(record, "fields", {})
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line | fields, default=str)


def note(event: str, *, level: int = logging.WARNING, **fields: Any) -> None:
    """Logs an event."""
    LOGGER.log(level, event, extra={"fields": fields})
