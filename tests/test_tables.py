import csv
import functools
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from charm_hf import tables
from charm_hf.tables import Table, escape_bytes, find_column, unescape_bytes, usual_column


ROWS = [{"path": "a b.jpg", "score": "1"}, {"path": "c,d.jpg", "score": "2"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'path,score\na b.jpg,1\n"c,d.jpg",2\n'),
        ("t.csv", '\ufeffpath;score\r\na b.jpg;1\r\n\r\n"c,d.jpg";2\r\n'),
        ("t.tsv", "path\tscore\na b.jpg\t1\nc,d.jpg\t2"),
        ("t.csv", '\n\n path , score \na b.jpg,1,,\n"c,d.jpg",2\n , \n'),
        ("t.jsonl", "\ufeff" + "".join(json.dumps(row) + "\r\n" for row in ROWS)),
        ("t.NDJSON", "\n\n".join(json.dumps(row) for row in ROWS)),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_every_way_of_writing_a_table_gives_the_same_rows(tmp_path, name, content, encoding):
    (tmp_path / name).write_bytes(content.lstrip("\ufeff" if encoding == "utf-16" else "").encode(encoding))
    table = Table(tmp_path / name)
    assert table.names == ("path", "score")
    assert list(table.rows()) == ROWS


def test_a_parquet_file_gives_the_columns_that_are_asked_for(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    table = Table(tmp_path / "t.parquet")
    assert table.names == ("path", "score")
    assert list(table.rows(columns=["path"])) == [{"path": row["path"]} for row in ROWS]


def test_a_row_of_another_shape_is_cut_or_filled_or_told_apart(tmp_path):
    (tmp_path / "t.csv").write_text("path,score\na.jpg,1,2\n\nb.jpg\nc.jpg,3\n")
    table, faults = Table(tmp_path / "t.csv"), []
    assert [row["score"] for row in table.rows()] == ["1", None, "3"]
    assert list(table.rows(faults=faults)) == [{"path": "c.jpg", "score": "3"}]
    assert faults == [(2, "expected 2 cells, found 3"), (4, "expected 2 cells, found 1")]


def test_a_line_that_is_no_object_is_named_or_told_apart(tmp_path):
    deep = "[" * 100_000
    (tmp_path / "t.jsonl").write_text(f'3\n{{"path": "a.jpg"}}\n{deep}\n')
    table, faults = Table(tmp_path / "t.jsonl"), []
    assert list(table.rows(faults=faults)) == [{"path": "a.jpg"}]
    assert [line for line, _ in faults] == [1, 3]
    with pytest.raises(ValueError, match=r"t\.jsonl.*line 1: expected a JSON object, found int"):
        list(table.rows())


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_a_file_that_is_no_such_table_is_named(tmp_path, name, monkeypatch, request):
    request.addfinalizer(functools.partial(csv.field_size_limit, csv.field_size_limit(1000)))
    monkeypatch.setattr(tables, "_LONGEST_CELL", 1000)
    (tmp_path / name).write_text("path\n" + "x" * 2000)
    with pytest.raises(ValueError, match=f"{name}.* cannot be read as"):
        list(Table(tmp_path / name).rows())
    with pytest.raises(FileNotFoundError):
        Table(tmp_path / f"missing-{name}")


def test_two_columns_of_one_name_are_an_error_where_rows_must_fit(tmp_path):
    (tmp_path / "t.csv").write_text("path,score,score\na.jpg,1,2\n")
    assert len(list(Table(tmp_path / "t.csv").rows())) == 1
    with pytest.raises(ValueError, match="unlike names"):
        list(Table(tmp_path / "t.csv").rows(faults=[]))


def test_bytes_that_are_not_utf8_reach_the_file_and_the_page(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"path\ncaf\xe9.jpg\n")
    (row,) = Table(tmp_path / "t.csv").rows()
    assert escape_bytes(row["path"]) == r"caf\xe9.jpg"
    assert unescape_bytes(r"caf\xe9.jpg") == row["path"]
    assert unescape_bytes("\ud800") == "\ud800"


def test_columns_are_found_by_usual_names_and_missing_ones_list_what_is_there():
    assert find_column(["id", "Image"], "path", "t.csv") == "Image"
    assert find_column(["MOS", "where"], "path", "t.csv", chosen="where") == "where"
    assert usual_column(["id"], "path") is None
    with pytest.raises(ValueError, match=r"t\.csv: .*the score, called score, .* named by --score-column; found 'id'"):
        find_column(["id"], "score", "t.csv", option="--score-column")
    with pytest.raises(ValueError, match="expected a column 'x', found none"):
        find_column([], "score", "t.csv", chosen="x")


def test_a_compressed_table_is_read_as_it_is(tmp_path):
    (tmp_path / "votes.csv.gz").write_bytes(gzip.compress("image;score\nä.jpg;4\n".encode()))
    assert list(Table(tmp_path / "votes.csv.gz").rows()) == [{"image": "ä.jpg", "score": "4"}]


def test_the_ground_floor_does_not_load_torch():
    code = (
        "import importlib, sys, types\n"
        "package = types.ModuleType('charm_hf'); package.__path__ = [sys.argv[1]]; sys.modules['charm_hf'] = package\n"
        "importlib.import_module('charm_hf.files'); importlib.import_module('charm_hf.tables')\n"
        "print(sorted({'torch', 'transformers', 'pyarrow', 'numpy'} & set(sys.modules)))\n"
    )
    folder = str(Path(tables.__file__).parent)
    assert subprocess.check_output([sys.executable, "-c", code, folder], text=True).strip() == "[]"
