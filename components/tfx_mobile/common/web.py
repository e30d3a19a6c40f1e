"""What our self-contained HTML pages share: colours by light and dark, tables, JSON in a script element."""

import json
from typing import Any

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #5b6570; --line: #d8dee4;
  --card: #f6f8fa; --good: #116329; --good-back: #dafbe1; --bad: #a40e26; --bad-back: #ffebe9;
  --odd: #7d4e00; --odd-back: #fff8c5; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --soft: #9aa6b2;
  --line: #30363d; --card: #161b22; --good: #56d364; --good-back: #12261e; --bad: #ff7b72;
  --bad-back: #2d1416; --odd: #e3b341; --odd-back: #272115; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 24px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 26px; margin: 0 0 8px; } h2 { font-size: 18px; margin: 32px 0 8px; }
p { margin: 4px 0; } .soft { color: var(--soft); overflow-wrap: anywhere; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--card); vertical-align: bottom; font-weight: 600; }
td:first-child, th:first-child, .text { text-align: left; }
td.text { white-space: normal; min-width: 240px; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
summary { cursor: pointer; } li { margin: 2px 0; }
"""


def for_script(value: Any) -> str:
    """Returns JSON that can stand in a script element, whatever strings are in it."""
    text = json.dumps(value, allow_nan=False, sort_keys=True)  # in ASCII, so no \\u2028 either
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
