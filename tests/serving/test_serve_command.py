import re
import signal
import subprocess
import sys
import threading

import httpx
import pytest


pytest.importorskip("uvicorn", reason="needs the extra charm-hf[serve]")


@pytest.mark.slow
def test_the_command_serves_this_machine_only_and_ends_after_what_is_underway(checkpoint, photos):
    command = [
        sys.executable,
        "-m",
        "charm_hf_cli",
        "serve",
        "--model",
        checkpoint,
        "--port",
        "0",
        "--num-workers",
        "0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        address = next(found[1] for line in service.stderr if (found := re.search(r"running on (http://\S+)", line)))
        assert address.startswith("http://127.0.0.1:")
        codes: list[int] = []

        def ask() -> None:
            with open(photos[0], "rb") as photo:
                sent = [("files", ("photo", photo.read()))] * 16
            codes.append(httpx.post(f"{address}/score", files=sent, timeout=120).status_code)

        client = threading.Thread(target=ask)
        client.start()
        while not httpx.get(f"{address}/health").json()["waiting"]:
            pass
        service.send_signal(signal.SIGTERM)
        client.join()
        assert codes == [200]
        assert "Traceback" not in service.stderr.read()


def test_without_the_extra_one_line_says_what_to_install(monkeypatch, capsys):
    from charm_hf_cli import main

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit) as stop:
        main(["serve"])
    assert stop.value.code == 2
    assert "pip install 'charm-hf[serve]'" in capsys.readouterr().err
