"""`cookbook.new` says what it does, and what it imports first is light: each process that reads clips imports it."""

import subprocess
import sys

from cookbook import new
from cookbook.runs import ROOT


def test_the_processes_that_read_clips_do_not_wait_for_torch():
    heavy = "import sys, cookbook.new; print(sys.modules.keys() & {'torch', 'transformers', 'scipy', 'pandas'})"
    result = subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("set()\n", "")


def test_it_says_what_it_reads_before_it_does(monkeypatch, tmp_path, capsys):
    def write_job(*_, **__):
        assert "reading my_clips" in capsys.readouterr().err
        (tmp_path / "README.md").write_text("# mine")
        return tmp_path

    monkeypatch.setattr(new, "write_job", write_job)
    assert new.main(["mine", "--data", "my_clips"]) == 0 and capsys.readouterr().out == "# mine\n"
