"""Makes `pod_components` importable here, as TFX imports it: by its own name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
