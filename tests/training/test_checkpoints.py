"""What is published is whole, and on the disk."""

import json
import os

from cosent.files import checksum
from cosent.training.checkpoints import publish


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    unfinished = tmp_path / ".unfinished" / "checkpoint-3"
    (unfinished / "1_Pooling").mkdir(parents=True)
    for name in ("model.safetensors", "1_Pooling/config.json", "README.md", "cosent_config.json"):
        (unfinished / name).write_text(name)
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def replaced(source, target):
        events.append(f"now {target}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    checkpoint = tmp_path / "checkpoint-3"
    publish(unfinished, checkpoint)
    before, after = events[: events.index(f"now {checkpoint}")], events[events.index(f"now {checkpoint}") + 1 :]
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    assert {str(unfinished / path.relative_to(checkpoint)) for path in files} <= set(before)
    assert {str(unfinished), str(unfinished / "1_Pooling")} <= set(before)
    assert after == [str(tmp_path)]
    stored = json.loads((checkpoint / "checksums.json").read_text())
    names = ("model.safetensors", "1_Pooling/config.json")
    assert stored == {name: checksum(checkpoint / name) for name in names}
    assert not unfinished.parent.exists()
