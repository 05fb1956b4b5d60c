import csv
import functools
import http.server
import io
import json
import shutil
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pyarrow.parquet as pq
import pytest

from charm_hf.scoring import storage


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, where outputs are staged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "charm_hf" / "runs"


@pytest.fixture(scope="module")
def bucket():
    """A bucket of a simulated S3."""
    moto = pytest.importorskip("moto.server", reason="needs moto")
    pytest.importorskip("s3fs", reason="needs the extra charm-hf[s3]")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "FSSPEC_S3_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():
            patch.setenv(name, value)
        files = fsspec.filesystem("s3", endpoint_url=f"http://{host}:{port}")
        files.mkdir("photos")
        patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
        yield files
    server.stop()


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def shard(photos, tmp_path):
    """A shard of two photos with captions, and one that is broken."""
    members = {
        "one.jpg": (photos / "a.jpg").read_bytes(),
        "one.txt": b"a caption",
        "two.png": (photos / "b.png").read_bytes(),
        "three.jpg": b"broken",
        "three.txt": b"another",
    }
    return members, write_tar(tmp_path / "shard.tar", members)


def test_images_tables_shards_and_outputs_may_lie_in_s3(score_photos, photos, shard, bucket, cache):
    for name in ("a.jpg", "b.png", "sub/e.jpg"):
        bucket.put_file(str(photos / name), f"photos/folder/{name}")
    bucket.pipe_file("photos/folder/notes.txt", b"no photo")
    bucket.put_file(str(shard[1]), "photos/shards/0.tar")
    bucket.pipe_file("photos/list.csv", b"path\nfolder/a.jpg\nfolder/gone.jpg\n")
    _, local, _ = score_photos(photos / "a.jpg", photos / "b.png", photos / "sub/e.jpg")
    expected = [row["score"] for row in local]
    code, rows, _ = score_photos("s3://photos/folder", "--num-workers", 0)
    assert code == 0
    assert [row["path"] for row in rows] == [f"s3://photos/folder/{name}" for name in ("a.jpg", "b.png", "sub/e.jpg")]
    assert [row["score"] for row in rows] == expected
    _, rows, _ = score_photos("s3://photos/folder/*.jpg")
    assert [row["score"] for row in rows] == expected[:1]
    _, rows, _ = score_photos("s3://photos/shards/0.tar")
    assert [row["score"] for row in rows] == [*expected[:2], ""]
    code, rows, _ = score_photos("s3://photos/list.csv")
    assert (code, rows[0]["score"], rows[1]["score"]) == (1, expected[0], "")
    assert "no such object" in rows[1]["error"]
    code, _, messages = score_photos("s3://photos/folder", "--output", "s3://photos/scores.csv")
    assert "3 scored, 0 failed → s3://photos/scores.csv" in messages
    written = list(csv.DictReader(io.StringIO(bucket.cat_file("photos/scores.csv").decode())))
    assert [row["score"] for row in written] == expected
    assert not list(cache.iterdir())
    code, _, messages = score_photos("s3://photos/empty/*.jpg")
    assert (code, "nothing at 's3://photos/empty/*.jpg'" in messages) == (2, True)


def test_a_table_and_a_shard_may_come_from_the_web(score_photos, photos, shard, tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    write_tar(folder / "shard.tgz", shard[0], "w:gz")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        (folder / "list.jsonl").write_text(json.dumps({"path": str(photos / "a.jpg")}))
        _, (named,), _ = score_photos(f"{address}/list.jsonl")
        _, rows, _ = score_photos(f"{address}/shard.tgz")
        server.shutdown()
    assert rows[0]["score"] == named["score"]
    assert [row["key"] for row in rows] == ["one", "two", "three"]


def test_a_store_that_stumbles_is_asked_again_and_a_vanished_object_is_a_row(score_photos, photos, monkeypatch):
    files = fsspec.filesystem("memory")
    files.pipe_file("/photos/a.jpg", (photos / "a.jpg").read_bytes())
    monkeypatch.setattr(storage, "PAUSES", (0, 0))
    read, failures = type(files).cat_file, iter([OSError("SlowDown"), ConnectionError("reset")])

    def stumbling(self, *arguments, **options):
        for failure in failures:
            raise failure
        return read(self, *arguments, **options)

    monkeypatch.setattr(type(files), "cat_file", stumbling)
    code, rows, _ = score_photos("memory://photos/a.jpg", "memory://photos/gone.jpg")
    assert code == 1
    assert rows[0]["score"]
    assert rows[1]["error"] == "FileNotFoundError: There is no such object"
    monkeypatch.setattr(type(files), "cat_file", lambda *_, **__: (_ for _ in ()).throw(OSError("down")))
    _, (row,), _ = score_photos("memory://photos/a.jpg")
    assert "cannot be read: down" in row["error"]
    code, _, messages = score_photos("nowhere://photos/a.jpg")
    assert "Protocol not known" in messages


def test_threads_that_read_zipped_shards_at_once_all_get_their_bytes(tmp_path):
    names = [
        str(write_tar(tmp_path / f"{number}.tgz", {"a.txt": bytes([number]) * 4096}, "w:gz")) for number in range(4)
    ]
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda number: storage.read_range(names[number % 4], 512, 4096), range(400)))
    assert read == [bytes([number % 4]) * 4096 for number in range(400)]


def test_shards_are_written_back_with_the_scores_inside(score_photos, shard, tmp_path, cache):
    members, path = shard
    zipped = write_tar(tmp_path / "shard.tar.gz", members, "w:gz")
    _, rows, _ = score_photos(path)
    _, same, _ = score_photos(zipped)
    assert [row["score"] for row in same] == [row["score"] for row in rows]
    code, _, messages = score_photos(path, zipped, "--output", tmp_path / "out" / "%06d.tar")
    assert (code, "4 scored, 2 failed" in messages) == (1, True)
    for number in range(2):
        with tarfile.open(tmp_path / "out" / f"{number:06d}.tar") as tar:
            names = tar.getnames()
            added = {name: json.load(tar.extractfile(name)) for name in names if name.endswith(".aesthetic.json")}
            assert tar.extractfile("one.jpg").read() == members["one.jpg"]
        order = ["one.jpg", "one.txt", "one.aesthetic.json", "two.png", "two.aesthetic.json", "three.jpg", "three.txt"]
        assert names == [*order, "three.aesthetic.json"]
        assert [added[f"{key}.aesthetic.json"].get("score") for key in ("one", "two")] == [
            pytest.approx(float(row["score"])) for row in rows[:2]
        ]
        assert added["three.aesthetic.json"]["error"]
    assert not list(cache.iterdir())
    code, _, messages = score_photos(tmp_path / "photos" / "a.jpg", "--output", tmp_path / "out" / "%d.tar")
    assert (code, "Only shards" in messages) == (2, True)
    code, _, messages = score_photos(path, "--output", tmp_path / "out.tar")
    assert (code, "number" in messages) == (2, True)
    shutil.rmtree(tmp_path / "out")


def test_lance_datasets_come_in_and_go_out(score_photos, photos, tmp_path, cache):
    lance = pytest.importorskip("lance", reason="needs the extra charm-hf[lance]")
    import pyarrow as pa

    names = ("a.jpg", "b.png")
    lance.write_dataset(pa.table({"image": [(photos / name).read_bytes() for name in names]}), tmp_path / "in.lance")
    _, expected, _ = score_photos(*(photos / name for name in names))
    code, _, _ = score_photos(tmp_path / "in.lance", "--output", tmp_path / "out.lance")
    assert code == 0
    scores = lance.dataset(tmp_path / "out.lance").to_table()["score"].to_pylist()
    assert scores == [pytest.approx(float(row["score"])) for row in expected]


def test_n_runs_share_a_source_and_the_table_says_where_its_scores_come_from(score_photos, photos, tmp_path):
    _, whole, _ = score_photos(photos)
    parts = [score_photos(photos, "--shard", f"{number}/4")[1] for number in (1, 2, 3, 4)]
    assert [len(part) for part in parts] == [2, 2, 1, 1]
    together = {row["path"]: float(row["score"]) for part in parts for row in part}
    assert together == pytest.approx({row["path"]: float(row["score"]) for row in whole}, abs=1e-4)
    for wrong in ("0/4", "5/4", "first"):
        assert score_photos(photos, "--shard", wrong)[0] == 2
    score_photos(photos, "--output", tmp_path / "scores.parquet")
    said = pq.read_schema(tmp_path / "scores.parquet").metadata
    assert said[b"weights_sha256"]
    assert said[b"charm_hf"]
