"""The JSON schema of the campaign file, for editors: made of the very models that read it.

What is said of each key stands in `loop.schema_words`; what a file means, in `loop.config`.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from flowscout.loop.config import NOTICES, SURROGATES, CampaignConfig
from flowscout.loop.oracles import plug_ins
from flowscout.loop.schema_words import WORDS

DIALECT = "http://json-schema.org/draft-07/schema#"
"""The dialect that every editor knows. No keyword is used that later ones read otherwise."""

_ADDRESS = r"^[hH][tT][tT][pP][sS]?://[^\s/?@#]+([/?][^\s#]*)?#?$"
_MODULE_FUNCTION = r"^[^:]+:.+$"
# What pydantic reads as a number though it is text: quoted in the file, or a number of YAML 1.1 alone.
_NUMBER_AS_TEXT = r"^\s*[+-]?([0-9_]*\.?[0-9][0-9_]*\.?[0-9_]*([eE][+-]?[0-9_]+)?|0b[01_]+|[0-9_]+(:[0-9.]+)+)\s*$"
_SWITCH_AS_TEXT = (
    r"^([01tTfFyYnN]|[oO][nN]|[oO][fF][fF]|[yY][eE][sS]|[nN][oO]|[tT][rR][uU][eE]|[fF][aA][lL][sS][eE])$"
)

SCHEMA_FILE = "campaign.schema.json"
"""What the schema is called that stands beside a campaign file."""

Schema = dict[str, Any]


def campaign_schema() -> Schema:
    """Return the JSON schema of a campaign file.

    It accepts every file that is read, and refuses what can be told from one place of a file: unknown and missing
    keys, wrong words, numbers out of range. What takes arithmetic or other files is left to `flowscout validate`.
    """
    found = CampaignConfig.model_json_schema()
    definitions: dict[str, Schema] = found.pop("$defs")
    for name, section in [("CampaignConfig", found), *definitions.items()]:
        _describe(name, section)
        for key, part in section.get("properties", {}).items():
            section["properties"][key] = _widened(part)
        for refine in _REFINEMENTS.get(name, ()):
            refine(section)
    return {"$schema": DIALECT, **found, "title": "Flowscout campaign file", "$defs": definitions}


def schema_text() -> str:
    """Return the schema as it is written to a file."""
    return json.dumps(campaign_schema(), indent=1, ensure_ascii=False) + "\n"


def _describe(name: str, section: Schema) -> None:
    """Say what each key means, once, and leave out what pydantic says of a default that is nothing."""
    section["title"] = name.removesuffix("Section").lower()
    if "description" in section:
        section["description"] = " ".join(section["description"].split())
    for key, part in section.get("properties", {}).items():
        part.pop("title", None)
        part.pop("discriminator", None)
        if part.get("default", 0) is None or isinstance(part.get("default"), Mapping):
            del part["default"]
        words = WORDS.get(name, {}).get(key)
        if words:
            part["description"] = words


def _widened(part: Any) -> Any:
    """Return a part of the schema that takes numbers and switches also as text, as they are read."""
    if isinstance(part, list):
        return [_widened(one) for one in part]
    if not isinstance(part, dict):
        return part
    wide = {key: _widened(value) if key not in ("default", "enum") else value for key, value in part.items()}
    if wide.get("type") in ("integer", "number"):
        wide |= {"type": [wide["type"], "string", "boolean"], "pattern": _NUMBER_AS_TEXT}
    elif wide.get("type") == "boolean":
        wide |= {"type": ["boolean", "string", "integer"], "pattern": _SWITCH_AS_TEXT, "minimum": 0, "maximum": 1}
    return wide


def _plug_ins_at_hand(section: Schema) -> None:
    """Take the types that are installed where the schema is made: any other word is a mistake."""
    section["properties"]["type"]["enum"] = sorted(plug_ins())


def _needs(key: str, *, only_with: str, words: list[str]) -> Callable[[Schema], None]:
    """Return a refinement: where `key` is given, `only_with` must be given as one of `words`."""

    def refine(section: Schema) -> None:
        properties = section["properties"]
        need: Schema = {"properties": {only_with: {"enum": words}}}
        if properties[only_with].get("default") not in words:
            need["required"] = [only_with]
        section.setdefault("allOf", []).append({"if": {"required": [key]}, "then": need})

    return refine


def _one_objective(section: Schema) -> None:
    section["properties"]["objectives"]["maxItems"] = 1


def _short_oracle(section: Schema) -> None:
    """Let the oracle be the text `module:function` too."""
    part = section["properties"]["oracle"]
    sections = part.pop("oneOf", None) or part.pop("anyOf")
    short = {"type": "string", "description": "The short form of a Python function: module:function."}
    part["anyOf"] = [short, *sections]


def _one_direction(section: Schema) -> None:
    """Keep -log10 from what is to be large."""
    turned = {"required": ["transform"], "properties": {"transform": {"const": "-log10"}}}
    section["allOf"] = [{"if": turned, "then": {"properties": {"direction": {"const": "minimize"}}}}]


def _letters_by_position(section: Schema) -> None:
    """Let the letters of a position be a list too, and let nothing but a number be a position."""
    letters: Schema = {"anyOf": [{"type": "string"}, {"type": "array"}]}
    section["properties"]["letters"] |= {
        "propertyNames": {"pattern": _NUMBER_AS_TEXT},
        "additionalProperties": letters,
    }


def _surrogates(section: Schema) -> None:
    section["properties"]["type"] |= {
        "type": "string",
        "anyOf": [{"enum": list(SURROGATES)}, {"pattern": _MODULE_FUNCTION}],
    }


def _address(section: Schema) -> None:
    section["properties"]["url"]["pattern"] = _ADDRESS
    section["properties"]["lookup_url"]["pattern"] = _ADDRESS


def _environment_names(section: Schema) -> None:
    for key in {"secret_env", "token_env"} & set(section["properties"]):
        section["properties"][key]["pattern"] = r"^[A-Za-z_][A-Za-z0-9_]{0,199}$"


def _hooks(section: Schema) -> None:
    """Say what a hook may be told of, and that it is a command or a webhook."""
    properties = section["properties"]
    properties["on"]["items"] = {"enum": list(NOTICES)}
    properties["webhook"]["pattern"] = "^https?://"
    given = [{"required": [key], "properties": {key: {"not": {"type": "null"}}}} for key in ("command", "webhook")]
    section["oneOf"] = given
    named = {"required": ["secret_env"], "properties": {"secret_env": {"type": "string"}}}
    section["allOf"] = [{"if": named, "then": given[1]}]


_REFINEMENTS: dict[str, tuple[Callable[[Schema], None], ...]] = {
    "CampaignConfig": (_one_objective, _short_oracle),
    "ObjectiveSection": (_one_direction,),
    "SequenceSection": (_letters_by_position,),
    "SurrogateSection": (_surrogates, _needs("kernel", only_with="type", words=["gp"])),
    "AcquisitionSection": (_needs("kappa", only_with="type", words=["ucb", "q_ucb"]),),
    "NotifySection": (_hooks,),
    "HttpSection": (_address, _environment_names),
    "LabSection": (_environment_names,),
    "PlugInSection": (_plug_ins_at_hand,),
}
"""What a validator of `loop.config` knows and a field's type does not say."""
