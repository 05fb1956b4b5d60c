import os
import threading
import time
from pathlib import Path

import pytest

from benchmarks.serving import main
from charm_hf.scoring import Scorer, ScoringOptions, load_for_scoring, score_images


testclient = pytest.importorskip("fastapi.testclient", reason="needs the extra charm-hf[serve]")
from charm_hf.serving import ServiceLimits, create_app  # noqa: E402, only where FastAPI is


@pytest.fixture(scope="module")
def scorer(checkpoint) -> Scorer:
    return Scorer(*load_for_scoring(checkpoint, device="cpu"), ScoringOptions(embeddings=True))


@pytest.fixture
def serve(scorer):
    """Start a service with these limits and options; gives its client."""
    clients = []

    def start(limits=None, **options):
        client = testclient.TestClient(create_app(scorer, limits, **options))
        clients.append(client)
        return client.__enter__()

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def files(*paths) -> list:
    return [("files", (Path(path).name, Path(path).read_bytes())) for path in paths]


def test_the_scores_are_those_of_the_command_and_a_broken_file_says_why(serve, photos, checkpoint):
    sent = [*files(*photos), ("files", ("broken.jpg", b"no photo"))]
    response = serve().post("/score", files=sent)
    assert response.status_code == 200
    *scored, broken = response.json()["results"]
    for told, row in zip(scored, score_images(photos, checkpoint), strict=True):
        assert told["name"] == os.path.basename(row.path)
        for name in ("score", "normalized_score", "std"):
            assert told[name] == pytest.approx(getattr(row, name), abs=1e-4)
        assert "error" not in told
    assert set(broken) == {"name", "error"}
    assert "broken.jpg" in broken["error"]


def test_rank_sorts_and_embed_gives_what_the_head_sees(serve, photos, scorer):
    client = serve()
    ranked = client.post("/rank", files=[("files", ("empty", b"")), *files(*photos)]).json()["results"]
    scores = [told.get("score") for told in ranked]
    assert scores[:-1] == sorted(scores[:-1], reverse=True)
    assert [told.get("rank") for told in ranked] == [1, 2, 3, None]
    (told,) = client.post("/embed", files=files(photos[0])).json()["results"]
    features = scorer.model.get_image_features(**scorer.processor(photos[0])).pooler_output[0]
    assert told["embedding"] == pytest.approx(features.tolist(), abs=1e-4)


def test_too_much_is_refused_before_it_costs_much(serve, photos):
    client = serve(ServiceLimits(max_bytes=2**20, max_images=2, max_pixels=100_000))
    assert client.post("/score", files=[("files", ("long", bytes(2**20 + 1)))]).status_code == 413
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="long"\r\n\r\n'
    unannounced = iter([head, bytes(2**20), b"no length was sent"])
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/score", content=unannounced, headers=form).status_code == 413
    small = [("files", ("small", b"x"))]
    assert client.post("/score", files=small * 3).status_code == 413
    assert client.post("/score").status_code == 422
    (told,) = client.post("/score", files=files(photos[1])).json()["results"]
    assert "more than the limit of 100,000" in told["error"]


def test_urls_are_refused_unless_the_service_can_fetch_them(serve, photos):
    asked = {"urls": ["https://example.com/photo.jpg"]}
    assert serve().post("/score", data=asked).status_code == 403
    content = Path(photos[1]).read_bytes()
    (told,) = serve(fetch=lambda url: content).post("/score", data=asked).json()["results"]
    assert told["name"] == asked["urls"][0]
    assert told["score"]


def test_a_token_keeps_strangers_out_of_all_but_the_health(serve, photos):
    client = serve(token="secret")
    assert client.get("/health").json()["status"] == "ok"
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert client.get("/metrics", headers=headers).status_code == 401
        assert client.post("/score", files=files(photos[1]), headers=headers).status_code == 401
    assert client.post("/score", files=files(photos[1]), headers={"Authorization": "Bearer secret"}).status_code == 200


def test_requests_share_batches_and_a_full_queue_and_a_slow_model_say_so(serve, scorer, photos, monkeypatch):
    running, may_go_on = threading.Event(), threading.Event()
    answer = Scorer.answer

    def held(self, inputs):
        running.set()
        assert may_go_on.wait(60)
        return answer(self, inputs)

    monkeypatch.setattr(Scorer, "answer", held)
    client = serve(ServiceLimits(max_waiting=4, max_seconds=300))
    codes = []

    def ask() -> None:
        codes.append(client.post("/score", files=files(photos[1])).status_code)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    clients[0].start()
    assert running.wait(60)
    for thread in clients[1:]:
        thread.start()
    while client.get("/health").json()["ready"] < 3:
        time.sleep(0.05)
    assert client.get("/health").json()["waiting"] == 4
    refused = client.post("/score", files=files(photos[1]))
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    may_go_on.set()
    for thread in clients:
        thread.join()
    assert codes == [200] * 4
    metrics = client.get("/metrics").text
    assert "charm_batch_images_count 2.0" in metrics  # the first alone, the three that waited together
    assert 'charm_images_total{outcome="scored"} 4.0' in metrics
    may_go_on.clear()
    impatient = serve(ServiceLimits(max_seconds=0.5))
    assert impatient.post("/score", files=files(photos[1])).status_code == 504
    may_go_on.set()


def test_the_interface_is_described(serve):
    described = serve().get("/openapi.json").json()
    paths, shapes = described["paths"], described["components"]["schemas"]
    assert {"/score", "/rank", "/embed", "/health", "/metrics"} <= set(paths)
    assert "429" in paths["/score"]["post"]["responses"]
    assert {"files", "urls"} == set(shapes["Body_score_score_post"]["properties"])
    assert {"name", "score", "normalized_score", "std", "error"} == set(shapes["Score"]["properties"])


@pytest.mark.slow
def test_under_load_nothing_is_lost_when_worker_processes_are_killed(capsys):
    main(["--model-size", "tiny", "--images", "24", "--rounds", "1"])
    *table, answered = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in table[3:]] == ["1", "4", "16"]
    assert answered == "worker processes killed: 24 of 24 answered"
