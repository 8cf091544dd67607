"""Which model is in use: ``<root>/models/<name>/champion.json``, moved by compare-and-swap, with its history beside it.

``history/<number>.json`` holds every champion there ever was. The outgoing champion's entry is made sure of before the
pointer moves, so a mover that dies in between loses nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from components.common.contracts.errors import ConfigError, ConflictError, StorageError
from components.common.retraining.claims import model_uri
from components.common.retraining.records import Champion
from components.common.storage.addresses import join
from components.common.storage.store import Store

__all__ = ["champion_of", "history", "model_names", "move", "roll_back"]

_POINTER = "champion.json"


def champion_of(store: Store, name: str) -> tuple[Champion, str] | None:
    """The champion of a model name and the ETag of its pointer, or None when there is none yet.

    Raises:
        ContractError: The pointer is not readable.
        StorageError: The store cannot answer.
    """
    uri = join(model_uri(store.root, name), _POINTER)
    found = store.find(uri)
    return None if found is None else (Champion.from_bytes(found[0], uri), found[1])


def model_names(store: Store) -> list[str]:
    """The model names that have a champion, sorted.

    Raises:
        StorageError: The store cannot answer.
    """
    prefix = join(store.root, "models") + "/"
    keys = (info.uri[len(prefix) :].split("/") for info in store.list(prefix))
    return sorted(parts[0] for parts in keys if parts[1:] == [_POINTER])


def history(store: Store, name: str) -> list[Champion]:
    """All champions of a model name, the present one last.

    Raises:
        ContractError: An entry is not readable.
        StorageError: The store cannot answer.
    """
    prefix = join(model_uri(store.root, name), "history") + "/"
    entries = {e.number: e for e in (Champion.from_bytes(store.get(i.uri), i.uri) for i in store.list(prefix))}
    present = champion_of(store, name)
    if present is not None:
        entries[present[0].number] = present[0]
    return [entries[number] for number in sorted(entries)]


def move(store: Store, candidate: Champion, present: tuple[Champion, str] | None) -> Champion:
    """Makes a candidate the champion, unless the pointer has moved since it was read.

    Args:
        store: The store at the root of the run data.
        candidate: The new champion; its number and time are set here.
        present: The champion as read with ``champion_of``, which the decision was made against.

    Returns:
        The champion as it stands now.

    Raises:
        ConflictError: Another promotion was first; the message names the run that is champion now.
        StorageError: The store cannot take it.
    """
    base = model_uri(store.root, candidate.name)
    uri = join(base, _POINTER)
    number = present[0].number + 1 if present else 1
    moved = replace(candidate, number=number, promoted_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    if present is not None:
        store.put_if_absent(_entry(base, present[0].number), present[0].to_bytes())
    if not _swap(store, uri, moved.to_bytes(), present[1] if present else None):
        now = champion_of(store, candidate.name)
        raise ConflictError(
            uri,
            expected=f"champion {present[0].number}, run {present[0].run_id}" if present else "no champion yet",
            found=f"champion {now[0].number}, run {now[0].run_id}" if now else "none",
            hint="Another promotion was first and its model is the champion; compare and promote again.",
        )
    store.put_if_absent(_entry(base, number), moved.to_bytes())
    return moved


def roll_back(store: Store, name: str, by: str, number: int | None = None) -> Champion:
    """Makes an earlier champion the champion again, as a new entry of the history.

    Without a number it walks back: from a champion that a rollback brought back to the one before that, never to the
    one that was just left.

    Args:
        store: The store at the root of the run data.
        name: Model name.
        by: Who asks for it.
        number: Which one; None for the one before the present champion, of another run.

    Raises:
        ConfigError: No champion, or no such earlier one.
        ConflictError: Another promotion was first.
        StorageError: The store cannot serve, or the earlier checkpoint is gone.
    """
    present = champion_of(store, name)
    if present is None:
        raise ConfigError(
            f"model {name}", expected="a champion", found="none", hint="`untaint models list` shows the names."
        )
    entries = history(store, name)
    if number is None:
        first = _first_entry(entries, present[0])
        earlier = [entry for entry in entries if entry.number < first and entry.run_id != present[0].run_id]
    else:
        earlier = [entry for entry in entries if entry.number == number != present[0].number]
    if not earlier:
        raise ConfigError(
            f"model {name}",
            expected=f"an earlier champion {number}" if number else "a champion before it, of another run",
            found="none",
            hint=f"`untaint models list {name}` shows the history.",
        )
    target = earlier[-1]
    if not store.exists(target.model_uri):
        raise StorageError(
            target.model_uri, expected="the checkpoint of the earlier champion", found="none", hint="It was deleted."
        )
    return move(store, replace(target, how="rollback", by=by), present)


def _first_entry(entries: list[Champion], champion: Champion) -> int:
    """Number of the entry that a champion goes back to: its own, unless a rollback brought an earlier one back."""
    if champion.how != "rollback":
        return champion.number
    made = [
        entry.number
        for entry in entries
        if entry.run_id == champion.run_id and entry.how != "rollback" and entry.number < champion.number
    ]
    return made[-1] if made else champion.number


def _swap(store: Store, uri: str, data: bytes, etag: str | None) -> bool:
    if etag is None:
        return store.put_if_absent(uri, data)
    try:
        store.put_if_match(uri, data, etag)
    except ConflictError:
        return False
    return True


def _entry(base: str, number: int) -> str:
    return join(base, "history", f"{number:06d}.json")
