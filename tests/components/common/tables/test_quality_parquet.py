"""Parquet tables: repeatable bytes, and damage that is always noticed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.common.contracts.errors import ContractError
from components.common.tables.content import content_digest
from components.common.tables.parquet import decode_table, encode_table
from components.common.tables.tables import POISON_TRUTH, SAMPLE_INDEX, TableSpec
from tests.components.common.tables.quality_samples import SPECS, SPLIT, columns_of, planted, table_of

DIGEST = "0" * 64
GOOD = table_of(SAMPLE_INDEX)
PARENTS = {"warmup": "1" * 64, "ingest": "2" * 64}


def encode(table: pa.Table, spec: TableSpec) -> bytes:
    return encode_table(table, spec, config_digest=DIGEST, parents=PARENTS)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_table_comes_back_equal_with_the_exact_schema(spec):
    table = table_of(spec)
    back = decode_table(encode(table, spec), spec, subject="here")
    assert back.equals(table)
    assert back.schema.equals(spec.schema, check_metadata=True)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_bytes_depend_on_the_values_alone(spec):
    table = table_of(spec)
    chunked = pa.concat_tables([table.slice(0, 7), table.slice(7)]).replace_schema_metadata({"pandas": "{}"})
    backwards = dict(reversed(PARENTS.items()))
    other = encode_table(chunked, spec, config_digest=DIGEST, parents=backwards)
    assert other == encode(table, spec)


def test_another_process_writes_the_same_bytes_without_pandas():
    # Half a second less for what only reads tables. (pa.array and pa.table of anything import it.)
    program = """if True:
        import sys
        sys.path[:0] = sys.argv[1:]
        from components.common.tables.tables import SAMPLE_INDEX
        from components.common.tables.parquet import decode_table, encode_table
        table = decode_table(sys.stdin.buffer.read(), SAMPLE_INDEX, subject="stdin")
        parents = {"warmup": "1" * 64, "ingest": "2" * 64}
        sys.stdout.buffer.write(encode_table(table, SAMPLE_INDEX, config_digest="0" * 64, parents=parents))
        assert "pandas" not in sys.modules
        """
    data = encode(GOOD, SAMPLE_INDEX)
    other = subprocess.run([sys.executable, "-c", program, *sys.path], input=data, stdout=subprocess.PIPE, check=True)
    assert other.stdout == data


def test_the_footer_names_table_version_config_and_parents():
    metadata = pq.ParquetFile(pa.BufferReader(encode(table_of(SPLIT), SPLIT))).metadata.metadata
    ours = {key: value for key, value in metadata.items() if key.startswith(b"untaint.")}
    assert ours == {
        b"untaint.config_digest": DIGEST.encode(),
        b"untaint.content_sha256": content_digest(table_of(SPLIT)).encode(),
        b"untaint.parents": b'{"ingest":"' + b"2" * 64 + b'","warmup":"' + b"1" * 64 + b'"}',
        b"untaint.schema_version": b"1",
        b"untaint.table": b"split",
    }
    assert b"pandas" not in metadata


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_no_flipped_bit_reads_as_another_table(spec):
    table = table_of(spec)
    data = encode(table, spec)
    refused = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        try:
            back = decode_table(bytes(damaged), spec, subject="here")
        except ContractError:
            refused += 1
        else:
            assert back.equals(table), f"a flipped bit in byte {position} changed the table without a word"
    assert refused > len(data) // 2


def test_content_that_is_not_what_the_footer_says_is_refused():
    # What a flipped bit in the footer can do: every page is whole, and yet these are other values.
    schema, metadata = SAMPLE_INDEX.schema, pq.ParquetFile(pa.BufferReader(encode(GOOD, SAMPLE_INDEX))).metadata
    swapped = planted(SAMPLE_INDEX, "subset", 0, "holdout")
    for table in (GOOD, swapped, GOOD.slice(0, 10)):
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, schema, write_page_checksum=True) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({k: v for k, v in metadata.metadata.items() if k.startswith(b"untaint.")})
        data = sink.getvalue().to_pybytes()
        if table is GOOD:
            assert decode_table(data, SAMPLE_INDEX, subject="here").equals(GOOD)
        else:
            with pytest.raises(ContractError, match="content digest of table 'sample_index' in here"):
                decode_table(data, SAMPLE_INDEX, subject="here")


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_content_digest_sees_values_names_and_nothing_else(spec):
    table = table_of(spec)
    digest = content_digest(table)
    assert content_digest(pa.concat_tables([table.slice(0, 3), table.slice(3)])) == digest
    padded = pa.concat_tables([table.slice(5, 2), table]).slice(2)
    assert content_digest(padded) == digest
    assert content_digest(table.slice(0, 19)) != digest
    assert content_digest(table.rename_columns([f"{name}_" for name in table.column_names])) != digest
    for name in table.column_names:
        column = table[name].to_pylist()
        other = planted(spec, name, 0, column[1] if column[1] != column[0] else column[-1])
        assert content_digest(other) != digest
        assert content_digest(planted(spec, name, 0, None)) != digest


def test_the_content_digest_does_not_run_values_together():
    texts = [["ab", "c"], ["a", "bc"], ["abc", ""], ["abc", None], [None, "abc"]]
    lists = [[["a"], ["b"]], [["a", "b"], []], [[], ["a", "b"]], [["a", "b"], None], [["ab"], []]]
    tables = [pa.table({"x": pa.array(values, pa.string())}) for values in texts]
    tables += [pa.table({"x": pa.array(values, pa.list_(pa.string()))}) for values in lists]
    assert len({content_digest(table) for table in tables}) == len(tables)


def test_the_content_digest_is_the_same_for_ever():
    # Files outlive library versions: a change here makes every published table unreadable.
    expected = "b44604bec8038fad8c020fa1b75d6973197053641516cb8472e0ccf701af61d7"
    assert content_digest(table_of(SPLIT)) == expected


def test_a_type_without_a_content_digest_is_refused():
    with pytest.raises(TypeError, match="no content digest for columns of date32"):
        content_digest(pa.table({"day": pa.array([1], pa.date32())}))


@pytest.mark.parametrize("cut", [0, 1, 4, 100, -1, -8])
def test_a_truncated_file_is_refused(cut):
    data = encode(table_of(SAMPLE_INDEX), SAMPLE_INDEX)
    with pytest.raises(ContractError, match=r"table 'sample_index' in s3://b/k.*damaged"):
        decode_table(data[:cut], SAMPLE_INDEX, subject="s3://b/k")


def test_a_foreign_parquet_file_is_refused():
    sink = pa.BufferOutputStream()
    pq.write_table(table_of(SAMPLE_INDEX), sink)
    with pytest.raises(ContractError, match="table name in s3://b/k: expected 'sample_index'; found no such metadata"):
        decode_table(sink.getvalue().to_pybytes(), SAMPLE_INDEX, subject="s3://b/k")


def test_another_table_is_refused():
    with pytest.raises(ContractError, match="expected 'split'; found 'sample_index'"):
        decode_table(encode(table_of(SAMPLE_INDEX), SAMPLE_INDEX), SPLIT, subject="s3://b/k")


def test_another_schema_version_is_refused():
    newer = replace(SAMPLE_INDEX, version=2)
    with pytest.raises(ContractError, match="schema version of table 'sample_index' in s3://b/k: expected '1'; found"):
        decode_table(encode(table_of(newer), newer), SAMPLE_INDEX, subject="s3://b/k")


def test_other_columns_under_the_same_version_are_refused():
    wider = replace(SPLIT, columns=(*SPLIT.columns, replace(SPLIT.column("suspicion"), name="signal_\x1b[31m")))
    with pytest.raises(ContractError, match=r"1 unknown column 'signal_.x1b") as caught:
        decode_table(encode(table_of(wider), wider), SPLIT, subject="s3://b/k")
    assert "\x1b" not in str(caught.value)


def test_a_null_is_not_written_where_the_contract_allows_none():
    with pytest.raises(ContractError, match="table 'sample_index' before writing: expected no nulls"):
        encode(planted(SAMPLE_INDEX, "uri", 3, None), SAMPLE_INDEX)


def test_another_type_is_not_cast_in_silence():
    columns = columns_of(POISON_TRUTH)
    loose = pa.table({**columns, "true_label": pa.array(columns["true_label"], pa.int64())})
    with pytest.raises(ContractError, match="column true_label as int64 instead of int16"):
        encode(loose, POISON_TRUTH)


def test_looser_nullability_is_tightened():
    loose = table_of(SPLIT).cast(pa.schema([field.with_nullable(True) for field in SPLIT.schema]))
    assert encode(loose, SPLIT) == encode(table_of(SPLIT), SPLIT)
