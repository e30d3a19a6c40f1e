"""What our self-contained HTML pages share: colours by light and dark, tables, figures, names and numbers."""

import html
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

# Draws the constant `figures`, id to Plotly's JSON, and again when light turns to dark.
PAINT = """\
function paint() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
  for (const [id, figure] of Object.entries(figures)) {
    const layout = JSON.parse(JSON.stringify(figure.layout));
    Object.assign(layout, {paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)"});
    layout.font = {color: ink, size: 12, family: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"};
    for (const [name, axis] of Object.entries(layout))
      if (/^[xy]axis/.test(name)) axis.gridcolor = axis.zerolinecolor = line;
    Plotly.react(id, figure.data, layout, {responsive: true, displayModeBar: false});
  }
}
paint();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
"""
LINES = (  # Okabe and Ito (2008): told apart by people who are colour-blind
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00"),
    *("#56b4e9", "#8c6bb1", "#b8a600", "#8a5a44", "#7f7f7f"),
)
MAX_NAME = 40  # characters of a name beside a chart; all of it is in the text under the pointer
INFINITE = 1e300  # JSON has no infinity, so a score without bounds is the largest number there is


def for_script(value: Any) -> str:
    """Returns JSON that can stand in a script element, whatever strings are in it."""
    text = json.dumps(value, allow_nan=False, sort_keys=True)  # in ASCII, so no \\u2028 either
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def short(name: str) -> str:
    """Returns a name for an axis: on one line, its middle left out where it is long, as Plotly's HTML."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    if len(plain) > MAX_NAME:
        half = (MAX_NAME - 1) // 2
        plain = f"{plain[:half]}\u2026{plain[-half:]}"
    return html.escape(plain, quote=False)  # Plotly shows &quot; as it is


def number(value: float) -> str:
    """Returns a number with four digits that mean something, for people.

    >>> number(0.12345), number(12345.6), number(1.7e308), number(-5)
    ('0.1235', '12,346', '\u221e', '-5')
    """
    if abs(value) > INFINITE:
        return "\u221e" if value > 0 else "-\u221e"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"
