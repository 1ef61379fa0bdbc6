"""Every error Flowscout raises on purpose, in one tree.

Each message has three parts: what came, what was expected, what to do next. The command line turns an
`InputError` into exit code 2 and any other `FlowscoutError` into exit code 1; neither shows a traceback.

    FlowscoutError
    ├── InputError                 what was given is wrong; nothing was written
    │   ├── ConfigError            the campaign file
    │   ├── ObjectError            an object that is not in the space
    │   ├── LabelError             a label that is not a finite number, or a table that cannot be read
    │   │   └── TableError         a table with rows that are wrong, each of which it names (an ObjectError too)
    │   ├── OracleImportError      an oracle that cannot be imported
    │   ├── ShapeError             a tensor of the wrong shape or dtype
    │   ├── SchemaError            a database that this version cannot open
    │   │   └── NoHistoryError     a database where nothing has been run yet
    │   ├── NotFoundError          a campaign, round or candidate that is not in the history
    │   ├── QueryError             a question to the history that is wrong, not allowed or takes too long
    │   └── CampaignBusyError      another live process runs the campaign
    └── WorkError                  the input was right, the work failed
        ├── NonFiniteError         a reward, loss or posterior that is not finite
        ├── OracleError            an oracle that failed or broke its contract
        │   └── OracleTimeoutError a call that took longer than it may
        ├── StateError             a transition that the state machine does not allow
        └── LeaseLostError         another process has taken the campaign over
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import Future


class FlowscoutError(Exception):
    """Any error that Flowscout raises on purpose."""


class InputError(FlowscoutError):
    """What was given is wrong; nothing was written."""


class ConfigError(InputError):
    """The campaign file is missing, broken or asks for what cannot be."""


class ObjectError(InputError):
    """An object is not in the space."""


class LabelError(InputError):
    """A label is not a finite number, or a table of labels cannot be read."""


class TableError(LabelError, ObjectError):
    """Rows of a table are wrong. `mistakes` names each: (row as a person sees it or None, what is wrong)."""

    def __init__(self, message: str, mistakes: "tuple[tuple[int | None, str], ...]" = ()) -> None:
        super().__init__(message)
        self.mistakes = mistakes


class OracleImportError(InputError):
    """An oracle cannot be imported or is of no known type."""


class ShapeError(InputError):
    """A tensor has the wrong shape or dtype."""


class SchemaError(InputError):
    """A database cannot be opened by this version."""


class NoHistoryError(SchemaError):
    """There is no database, or an empty one: nothing has been run there yet."""


class NotFoundError(InputError):
    """A campaign, round or candidate is not in the history."""


class QueryError(InputError):
    """A question to the history is wrong, not allowed or takes too long."""


class CampaignBusyError(InputError):
    """Another live process runs the campaign."""


class WorkError(FlowscoutError):
    """The input was right, the work failed."""


class NonFiniteError(WorkError):
    """A reward, loss or posterior is not finite."""


class OracleError(WorkError):
    """An oracle failed or broke its contract."""


class OracleTimeoutError(OracleError):
    """A call of an oracle took longer than it may.

    `late` is where its answer will come, if it comes: a thread cannot be ended from outside.
    """

    def __init__(self, message: str, *, late: "Future[Any] | None" = None) -> None:
        super().__init__(message)
        self.late = late


class StateError(WorkError):
    """A transition is not one the state machine allows."""


class LeaseLostError(WorkError):
    """Another process has taken the campaign over."""
