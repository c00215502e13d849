"""How the report looks: on a wide screen, on a phone, on paper; light and dark."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #ffffff; --edge: #d0d7de; --band: #f6f8fa;
  --good: #116329; --bad: #a40e26; --bound: #a40e26; --c0: #0550ae; --c1: #953800; --c2: #6639ba; --c3: #116329;
  --c4: #57606a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b1; --paper: #0d1117; --edge: #3d444d;
  --band: #161b22; --good: #56d364; --bad: #ff8e86; --bound: #ff8e86; --c0: #79c0ff; --c1: #ffa657; --c2: #d2a8ff;
  --c3: #56d364; --c4: #9da7b1; } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #333; --paper: #fff; --edge: #999; --band: #fff;
  --good: #060; --bad: #900; --bound: #900; --c0: #0550ae; --c1: #953800; --c2: #6639ba; --c3: #116329; --c4: #333; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
.soft { color: var(--soft); } .bad { color: var(--bad); font-weight: 600; } .good { color: var(--good); }
a { color: var(--c0); } a:focus-visible, summary:focus-visible { outline: 3px solid var(--c0); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; } .skip:focus { position: static; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .5rem; margin: 1rem 0; }
.facts div { border: 1px solid var(--edge); border-radius: 6px; padding: .5rem .75rem; background: var(--band); }
.facts dt { color: var(--soft); font-size: .875rem; } .facts dd { margin: 0; font-size: 1.15rem; font-weight: 600; }
figure { margin: 1.5rem 0; } figcaption { margin-bottom: .25rem; }
.plot { position: relative; border-left: 1px solid var(--edge); margin: 1.5rem 0 0; } .marked { margin-bottom: 1.5rem; }
.plot svg { display: block; width: 100%; height: 12rem; overflow: visible; }
.plot path, .swatch path { fill: none; vector-effect: non-scaling-stroke; }
.grid { stroke: var(--edge); stroke-width: 1; } .bound { stroke: var(--bound); stroke-width: 2; }
.line { stroke-width: 2; } .bar { fill: var(--c1); }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); }
.c4 { stroke: var(--c4); }
.top { position: absolute; left: 0; top: -1.3rem; font-size: .8rem; color: var(--soft); }
.mark { position: absolute; bottom: -1.5rem; height: 1.5rem; width: 24px; margin-left: -12px; text-align: center;
  text-decoration: none; line-height: 1.5rem; color: var(--ink); }
.mark::before { content: ""; position: absolute; left: 50%; bottom: 1.5rem; height: 12rem; pointer-events: none;
  border-left: 1px dotted var(--soft); }
.times { display: flex; justify-content: space-between; font-size: .8rem; color: var(--soft); gap: .5rem; }
.times :last-child { text-align: right; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1rem; list-style: none; padding: 0; margin: 0; font-size: .875rem; }
.swatch { width: 24px; height: 4px; margin-right: .4rem; vertical-align: middle; }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; color: var(--soft); padding: .25rem 0; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem .4rem 0; border-bottom: 1px solid var(--edge); }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.what, .when { white-space: nowrap; } td p { margin: 0 0 .5rem; }
tr:target { background: var(--band); outline: 2px solid var(--c0); }
summary { cursor: pointer; color: var(--c0); padding: .25rem 0; }
.sum { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .1rem 1rem; margin: .25rem 0;
  font-size: .9rem; } .sum dt { color: var(--soft); } .sum dd { margin: 0; font-variant-numeric: tabular-nums; }
.title { margin: .5rem 0 0; font-size: .9rem; font-weight: 600; } code { font-size: .9em; }
@media (max-width: 40rem), print {
  .decisions, .decisions caption, .decisions tbody,
  .decisions tr, .decisions td, .decisions th { display: block; border: 0; padding: 0; }
  .decisions thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .decisions tr { border-bottom: 1px solid var(--edge); padding: .6rem 0; }
  .decisions .what { padding-bottom: .4rem; white-space: normal; } .what br { display: none; } }
@media (max-width: 40rem) {
  .figures { font-size: .85rem; } .figures th, .figures td { padding-right: .4rem; }
  .figures tbody, .figures tr, .figures thead { display: block; }
  .figures tr { display: grid; grid-template-columns: 1.3fr .8fr 1fr 1fr; border-bottom: 1px solid var(--edge); }
  .figures th, .figures td { border: 0; } .figures th:first-child { grid-column: 1 / -1; padding-bottom: 0; }
  .middle { display: none; } .sum { grid-template-columns: 1fr; gap: 0; } .sum dt { margin-top: .3rem; }
  .shares { grid-template-columns: 4.5rem 1fr; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } .skip { display: none; } a { color: inherit; }
  figure, dl.facts div { break-inside: avoid; } .plot svg, .mark::before { height: 7rem; } figure { margin: .75rem 0; }
  summary { list-style: none; color: var(--soft); }
  details::details-content { content-visibility: visible; display: block; height: auto; } }
"""
