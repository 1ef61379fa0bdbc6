"""Which checks are made, of an installation alone or of a campaign file too."""

from pathlib import Path

from flowscout.db import parse_url
from flowscout.doctor.checks import Check, broken, ok
from flowscout.doctor.packages import check_packages
from flowscout.doctor.places import check_artefacts, check_database, check_disk
from flowscout.doctor.services import check_device, check_port, check_prefect, check_secrets
from flowscout.errors import FlowscoutError, InputError
from flowscout.loop.config import CampaignConfig, CampaignFile, database_url, read_campaign_file
from flowscout.loop.oracles import build_oracle
from flowscout.loop.workbench import rules_of


def examine(path: Path | None, *, db: str | None, prefect_url: str | None, port: int) -> list[Check]:
    """Return what every check found: of the installation, and of all that a campaign file needs, if one came."""
    checks = [*check_packages()]
    file: CampaignFile | None = None
    if path is not None:
        try:
            file = read_campaign_file(path)
        except InputError as error:
            checks.append(broken("campaign", str(error), "as it says; `flowscout validate` checks it again"))
        else:
            checks += [_check_campaign(file), _check_oracle(file)]
    checks += _check_places(file, db)
    checks.append(check_prefect(prefect_url))
    config = None if file is None else file.config
    checks.append(check_device("auto" if config is None else config.device))
    if config is not None:
        checks += check_secrets(config.model_dump())
        if config.artefacts is not None:
            checks.append(check_artefacts(config.artefacts))
    checks.append(check_port(port, needed=config is not None and _is_posted_to(config)))
    return checks


def _check_campaign(file: CampaignFile) -> Check:
    try:
        size = rules_of(file.config, file.folder).size
    except InputError as error:
        return broken("campaign", str(error), "as it says; `flowscout validate` checks it again")
    return ok("campaign", f"{file.config.campaign}: {size:,} objects")


def _check_oracle(file: CampaignFile) -> Check:
    """Check that the oracle can be had; it is not called."""
    section, objective = file.config.oracle.model_dump(), file.config.objective.name
    try:
        info = build_oracle(section, folder=file.folder, property=objective).info
    except FlowscoutError as error:
        return broken("oracle", str(error), "as it says; `flowscout validate FILE --call` tries it")
    return ok("oracle", f"{info.name} (not called; `flowscout validate FILE --call` does)")


def _check_places(file: CampaignFile | None, db: str | None) -> list[Check]:
    """Check the database, if there is one to be looked at, and the disk that it or this folder is on."""
    if file is None and db is None:
        return [check_disk(Path.cwd())]
    try:
        url = db if file is None else database_url(file, db)
        assert url is not None
        checks = check_database(url)
        parsed = parse_url(url)
    except InputError as error:
        return [broken("database", str(error), "as it says"), check_disk(Path.cwd())]
    folder = Path.cwd() if file is None else file.folder
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        folder = Path(parsed.database).absolute().parent
    return [*checks, check_disk(folder if folder.is_dir() else Path.cwd())]


def _is_posted_to(config: CampaignConfig) -> bool:
    """Return whether results are posted to this machine: then a port is needed."""
    section = config.oracle.model_dump()
    return section.get("token_env") is not None or section.get("answers") == "call_back"
