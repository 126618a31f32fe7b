"""The report's style sheet: light and dark, narrow screens, paper. No font, picture or script from anywhere."""

from __future__ import annotations

from typing import Final

#: Series colours are Okabe and Ito's, which people with colour blindness tell apart; darker on white, lighter on black.
STYLE: Final = """
:root{color-scheme:light dark;--page:#fff;--soft:#f4f5f7;--edge:#d7dbe0;--ink:#1a1d21;--dim:#5a636e;
--good:#12703a;--bad:#b3261e;--warn:#8a5a00;--stop:#6a4b9a;--good-soft:#e3f4ea;--bad-soft:#fbe7e5;--warn-soft:#fdf1d8;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b8579a;--c4:#8a6d00;--c5:#3d8fc4;--c6:#6b6b6b;--c7:#8b3a1a}
@media (prefers-color-scheme:dark){:root{--page:#14171a;--soft:#1e2226;--edge:#3a4148;--ink:#e8eaed;--dim:#a3adb8;
--good:#6fd897;--bad:#ff8a80;--warn:#f2c14e;--stop:#c4a7f0;--good-soft:#16301f;--bad-soft:#3a1b19;--warn-soft:#33290f;
--c0:#56b4e9;--c1:#f28a4b;--c2:#3fc79a;--c3:#e08fc4;--c4:#e0c341;--c5:#8ecdf0;--c6:#b0b0b0;--c7:#d99a7c}}
*{box-sizing:border-box}
body{margin:0 auto;padding:24px 20px 64px;max-width:1000px;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;overflow-wrap:break-word}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 4px}h2{font-size:1.2rem;margin:40px 0 10px}
h3{font-size:1rem;margin:22px 0 6px}p{margin:6px 0}.dim,figcaption,footer{color:var(--dim);font-size:.88rem}
.verdict{display:flex;flex-wrap:wrap;gap:6px 18px;align-items:baseline;border:1px solid var(--edge);
border-left:8px solid var(--dim);border-radius:8px;padding:14px 18px;margin:18px 0;background:var(--soft)}
.verdict b{font-size:1.45rem;text-transform:uppercase;letter-spacing:.04em}
.verdict.passed{border-left-color:var(--good);background:var(--good-soft)}.verdict.passed b{color:var(--good)}
.verdict.failed{border-left-color:var(--bad);background:var(--bad-soft)}.verdict.failed b{color:var(--bad)}
.verdict.incomplete{border-left-color:var(--warn);background:var(--warn-soft)}.verdict.incomplete b{color:var(--warn)}
.verdict ul{flex-basis:100%;margin:0;padding-left:1.2em;overflow-wrap:anywhere}
.row.failed td{background:var(--bad-soft)}.row.not td,.row.blocked td{background:var(--warn-soft)}
.row td:first-child{padding-left:8px;border-left:4px solid var(--good)}
.row.failed td:first-child{border-left-color:var(--bad)}
.row.not td:first-child,.row.blocked td:first-child{border-left-color:var(--warn)}
.wide{overflow-x:auto;margin:8px 0;background:
linear-gradient(90deg,var(--page) 30%,transparent) 0 0/40px 100% no-repeat local,
linear-gradient(270deg,var(--page) 30%,transparent) 100% 0/40px 100% no-repeat local,
linear-gradient(90deg,var(--dim),transparent) 0 0/10px 100% no-repeat scroll,
linear-gradient(270deg,var(--dim),transparent) 100% 0/10px 100% no-repeat scroll}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th{text-align:left;font-weight:600;color:var(--dim);border-bottom:2px solid var(--edge);padding:6px 10px 6px 0}
td{border-bottom:1px solid var(--edge);padding:7px 10px 7px 0;vertical-align:top;overflow-wrap:break-word;
min-width:7em}td.number{min-width:0}.row td:first-child{min-width:12em}.row td:nth-child(2){min-width:0}
td code{display:block;min-width:16em}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.state{font-weight:600;white-space:nowrap}.passed>.state,.state.passed,.state.done,.state.cached{color:var(--good)}
.state.failed{color:var(--bad)}.state.not,.state.unavailable{color:var(--warn)}.state.blocked{color:var(--stop)}
code{font:.86em/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.plot{display:block;width:100%;height:auto;max-width:760px;margin:8px 0}
.plot text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--ink)}
.plot .tick{font-size:12px;fill:var(--dim)}.plot .strong{font-weight:600}.grid{stroke:var(--edge);stroke-width:1}
.line{fill:none;stroke:var(--c);stroke-width:2.5;stroke-linejoin:round}.dot{fill:var(--c);stroke:var(--page);stroke-width:1.5}
.fill{fill:var(--c)}.band{fill:var(--c);opacity:.25}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
.c6{--c:var(--c6)}.c7{--c:var(--c7)}
.edge{fill:none;stroke:var(--dim);stroke-width:1.5}.tip{fill:var(--dim)}
.node{fill:var(--soft);stroke:var(--edge);stroke-width:1.5}.node.failed{stroke:var(--bad);stroke-width:2.5}
.node.unavailable,.node.blocked{stroke:var(--warn);stroke-dasharray:5 4}.node.source{stroke:var(--c0);stroke-width:2.5}
.trio{display:grid;grid-template-columns:repeat(3,1fr);gap:8px;margin:10px 0 18px}
figure{margin:0}figure img{display:block;width:100%;height:auto;border-radius:4px;border:1px solid var(--edge)}
dl{display:grid;grid-template-columns:minmax(8em,max-content) 1fr;gap:4px 18px;margin:8px 0}dt{color:var(--dim)}
dd{margin:0;overflow-wrap:anywhere}footer{margin-top:48px;border-top:1px solid var(--edge);padding-top:10px}
@media (max-width:600px){
.wide::before{content:"scroll sideways";display:block;position:sticky;left:0;
width:max-content;color:var(--dim);font-size:.8rem}
.wide:has(.row)::before{content:none}.wide:has(.row) thead{position:absolute;left:-999em}
.row td,.row td:nth-child(2){display:block;border:0;border-left:4px solid var(--good);padding:3px 8px}
.row.failed td{border-left-color:var(--bad)}.row.not td,.row.blocked td{border-left-color:var(--warn)}
.row td:first-child{font-weight:600;padding-top:9px}.row td:last-child{margin-bottom:10px;padding-bottom:9px}
.row td:nth-child(n+3)::before{content:attr(data-label) ": ";color:var(--dim)}
td:last-child:not(.number){min-width:14em}
body{padding:16px 14px 48px}h1{font-size:1.4rem}.trio{grid-template-columns:1fr}
dl{grid-template-columns:1fr}dt{margin-top:6px}}
@media print{:root{color-scheme:light;--page:#fff;--soft:#f4f5f7;--edge:#c4c9cf;--ink:#000;--dim:#444;--good:#12703a;
--bad:#b3261e;--warn:#8a5a00;--stop:#6a4b9a;--good-soft:#fff;--bad-soft:#fff;--warn-soft:#fff;--c0:#0072b2;--c1:#d55e00;
--c2:#009e73;--c3:#b8579a;--c4:#8a6d00;--c5:#3d8fc4;--c6:#6b6b6b;--c7:#8b3a1a}
body{max-width:none;padding:0;font-size:11pt}h2,h3{break-after:avoid}tr,figure,.plot,.verdict,.trio{break-inside:avoid}
.wide{overflow:visible}table{font-size:8.5pt}td{min-width:0;overflow-wrap:break-word}.number{padding-right:6px}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
""".strip()
