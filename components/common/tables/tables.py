"""The Parquet tables that stages exchange: columns, types, value rules and a schema version each.

A table is described once, here. The Arrow schema, the Great Expectations suite (``quality``), the Parquet metadata
(``storage``) and the documentation are derived from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

__all__ = [
    "ASSIGNMENTS",
    "CLEANED_INDEX",
    "FLAGGED",
    "JUDGED_HOLDOUT",
    "MIXING",
    "MIXING_KINDS",
    "PASSED_REASONS",
    "POISON_TRUTH",
    "REJECTED",
    "REJECT_REASONS",
    "SAMPLE_INDEX",
    "SUBSETS",
    "SUSPECTS",
    "TRACES",
    "Column",
    "TableSpec",
    "split_spec",
]

SUBSETS = ("train", "holdout")
ASSIGNMENTS = ("clean", "suspect", "poisoned")
FLAGGED = ("suspect", "poisoned")
"""The assignments that cost a sample its label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column and the rules that its values keep.

    Attributes:
        name: Column name.
        type: Arrow type. The Arrow schema is compared exactly.
        nullable: Whether nulls are allowed.
        minimum: Smallest allowed value, inclusive; None for no bound.
        maximum: Largest allowed value, inclusive; None for no bound.
        one_of: The allowed values, if they form a small closed set.
        pattern: Regular expression that every value matches as a whole, for strings.
        increasing: Strictly increasing from row to row, hence unique.

    Raises:
        ValueError: A rule that the type cannot keep; it would be passed over in silence.
    """

    name: str
    type: pa.DataType
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    one_of: tuple[str, ...] | None = None
    pattern: str | None = None
    increasing: bool = False

    def __post_init__(self) -> None:
        number = pa.types.is_integer(self.type) or pa.types.is_floating(self.type)
        bounded = self.minimum is not None or self.maximum is not None
        if bounded and not number:
            raise ValueError(f"column {self.name}: minimum and maximum are for numbers, not for {self.type}")
        if (self.one_of is not None or self.pattern is not None) and not pa.types.is_string(self.type):
            raise ValueError(f"column {self.name}: one_of and pattern are for strings, not for {self.type}")
        if self.increasing and (self.nullable or not number):
            raise ValueError(f"column {self.name}: an increasing column holds numbers and no nulls")


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSpec:
    """One table of the contract.

    Attributes:
        name: Table name, as in messages and manifests.
        version: Schema version. Readers refuse another major version.
        columns: The columns, in order.
        min_rows: Fewest rows that make sense. Great Expectations lets empty tables pass, so this is checked.
        order_by: Columns by which, taken together, the rows increase strictly; empty for no such rule.
    """

    name: str
    version: int
    columns: tuple[Column, ...]
    min_rows: int = 1
    order_by: tuple[str, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, without metadata."""
        return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns])

    def column(self, name: str) -> Column:
        """The column of that name.

        Raises:
            KeyError: The table has no such column.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


_ID = Column(name="sample_id", type=pa.int64(), minimum=0, increasing=True)
_SHA256 = r"^[0-9a-f]{64}$"
_INT16_MAX = 32_767

SAMPLE_INDEX = TableSpec(
    name="sample_index",
    version=1,
    columns=(
        _ID,
        Column(name="uri", type=pa.string(), pattern=r"^[^\x00]+$"),
        Column(name="digest", type=pa.string(), pattern=_SHA256),
        Column(name="given_label", type=pa.int16(), minimum=0, maximum=_INT16_MAX),
        Column(name="subset", type=pa.string(), one_of=SUBSETS),
    ),
)
"""All samples of a run, training and holdout; row i has sample_id i. Never re-numbered downstream."""

POISON_TRUTH = TableSpec(
    name="poison_truth",
    version=1,
    columns=(
        _ID,
        Column(name="is_poisoned", type=pa.bool_()),
        Column(name="true_label", type=pa.int16(), minimum=0, maximum=_INT16_MAX),
    ),
)
"""What an injected attack did, for the rows of the sample index. Reaches the evaluate stage alone."""

REJECT_REASONS = {
    "unsafe_key": "a key that is absolute, climbs with '..', is a link or holds control characters",
    "no_label": "no class folder, or no usable label",
    "subset": "a subset other than train and holdout",
    "missing": "a listed image that is not in the drop, or a row without an image",
    "empty": "no bytes",
    "too_many_bytes": "a longer file than an image may be",
    "too_many_pixels": "more pixels than an image may announce",
    "format": "not an image of a format that is read, by content",
    "truncated": "the file ends before its image",
    "trailing_data": "other data behind the image's end",
    "broken": "an image that does not decode",
    "one_colour": "an image of one colour, on which there is nothing",
    "crashed": "an image at which the decoding process ended",
    "other_size": "another size than most images of the drop, while images keep their size",
    "label_conflict": "the same image under different labels",
    "in_training": "a holdout image that is a training image too",
    "bad_shard": "a shard that is damaged or not of the described form",
    "too_many_rows": "a shard with more rows than a file may have",
}
"""Why a sample of a drop is rejected, in the words of the documentation."""

PASSED_REASONS = {
    "litter": "left by an operating system, file manager, NAS box or version control",
    "hidden": "a name that begins with a dot",
    "note": "a name that begins with '_', of a file that claims to be no image",
    "other": "no image, by its name or by its content",
    "beside": "beside shards, which are read alone",
    "unlisted": "not named by the drop's list",
    "own_holdout": "the drop's own holdout, while another one is given",
}
"""Why a file of a drop is passed over: it is no sample, and does not count towards the share of rejected ones."""

REJECTED = TableSpec(
    name="rejected",
    version=1,
    min_rows=0,
    columns=(
        Column(name="key", type=pa.string()),
        Column(name="reason", type=pa.string(), one_of=(*REJECT_REASONS, *PASSED_REASONS)),
        Column(name="detail", type=pa.string()),
    ),
)
"""Samples of a drop that were left out: where they lie in the drop, why, and what was seen. Printable text only."""

TRACES = TableSpec(
    name="traces",
    version=1,
    columns=(
        Column(name="sample_id", type=pa.int64(), minimum=0),
        Column(name="epoch", type=pa.int16(), minimum=1, maximum=_INT16_MAX),
        Column(name="loss", type=pa.float32(), minimum=0.0),
        Column(name="entropy", type=pa.float32(), minimum=0.0),
        Column(name="given_probability", type=pa.float32(), minimum=0.0, maximum=1.0),
    ),
    order_by=("epoch", "sample_id"),
)
"""What the EMA model thought of every training sample after each warm-up epoch, in (epoch, sample_id) order.

Loss is cross-entropy against the given label, entropy that of the prediction, both in nats.
"""


MIXING_KINDS = ("border", "centre", "blend", "noise")

MIXING = TableSpec(
    name="mixing",
    version=2,
    columns=(
        _ID,
        *(Column(name=f"hold_{kind}", type=pa.float32(), minimum=0.0, maximum=1.0) for kind in MIXING_KINDS),
    ),
)
"""How firmly each training sample holds its given label when most of its content is another's, or under faint noise.

Mean probability of the given label for the warm-up EMA when only the sample's border is kept, only its centre is kept,
both images are blended half and half, or faint noise is added.
"""


JUDGED_HOLDOUT = TableSpec(
    name="judged_holdout",
    version=1,
    columns=(
        _ID,
        Column(name="assignment", type=pa.string(), one_of=("clean", "suspect")),
        Column(name="suspicion", type=pa.float32(), minimum=0.0, maximum=1.0),
    ),
)
"""The verdict on every holdout row, carried over from the training rows; figures are measured on the clean ones."""

SUSPECTS = TableSpec(
    name="suspects",
    version=2,
    min_rows=0,
    columns=(
        Column(name="key", type=pa.string(), pattern=r"^[^\x00]+$"),
        Column(name="label", type=pa.string()),
        Column(name="predicted_label", type=pa.string()),
        Column(name="suspicion", type=pa.float32(), minimum=0.0, maximum=1.0),
        Column(name="reasons", type=pa.list_(pa.string())),
        Column(name="sample_id", type=pa.int64(), minimum=0),
        Column(name="subset", type=pa.string(), one_of=SUBSETS),
    ),
)
"""Samples called suspect or poisoned, of training and holdout, the most suspect first.

The key is relative to the drop where the run read one, else the sample's address; the predicted label is that of the
fine-tuned model.
"""

CLEANED_INDEX = TableSpec(
    name="cleaned_index",
    version=1,
    columns=(
        Column(name="key", type=pa.string(), pattern=r"^[^\x00]+$"),
        Column(name="label", type=pa.string()),
        Column(name="subset", type=pa.string(), one_of=SUBSETS),
        Column(name="sha256", type=pa.string(), pattern=_SHA256),
    ),
)
"""What is left of the index without the suspects, for any trainer. Labels are class names."""


def split_spec(signals: Sequence[str]) -> TableSpec:
    """The split table for a set of signals: one float32 column in [0, 1] per signal, higher = more suspect."""
    unit = {"type": pa.float32(), "minimum": 0.0, "maximum": 1.0}
    return TableSpec(
        name="split",
        version=1,
        columns=(
            _ID,
            Column(name="assignment", type=pa.string(), one_of=ASSIGNMENTS),
            Column(name="suspicion", **unit),
            *(Column(name=f"signal_{name}", **unit) for name in signals),
            Column(name="reasons", type=pa.list_(pa.string())),
        ),
    )
