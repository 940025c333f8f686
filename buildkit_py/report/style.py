"""The page's style sheet. Light or dark as the system is; the switch at the top turns it round."""

from __future__ import annotations

_LIGHT = (
    "--page:#f6f7f9;--card:#fff;--line:#e3e6eb;--text:#1c2230;--faint:#667085;--ran:#3b6fe0;"
    "--cached:#1f9d6b;--failed:#d43c3c;--canceled:#98a1b2;--other:#9b7bd4;--size:#d9912b;"
    "--code:#f0f2f5;color-scheme:light"
)
_DARK = (
    "--page:#0f1319;--card:#171c25;--line:#2a3140;--text:#e6e9ef;--faint:#939db0;--ran:#6c97f5;"
    "--cached:#3fc18c;--failed:#f06a6a;--canceled:#6b7488;--other:#b196e8;--size:#e8ad52;"
    "--code:#1f2632;color-scheme:dark"
)
STYLE = (
    f":root{{{_LIGHT}}}:root:has(#theme:checked){{{_DARK}}}"
    f"@media(prefers-color-scheme:dark){{:root{{{_DARK}}}:root:has(#theme:checked){{{_LIGHT}}}}}"
    """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);
 font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
code,pre,.label{font-family:ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace;
 font-size:12.5px}
#theme{position:absolute;opacity:0}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}
header{display:flex;justify-content:space-between;align-items:flex-start}
header label{cursor:pointer;font-size:22px;color:var(--faint);line-height:1}
h1{font-size:23px;margin:0;overflow-wrap:anywhere}
h2{font-size:16px;margin:0 0 14px}
.sub{color:var(--faint);margin:2px 0 18px}
section,.numbers div{background:var(--card);border:1px solid var(--line);border-radius:12px}
section{padding:18px 20px;margin-top:16px}
.numbers{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:0}
.numbers div{padding:12px 16px}
dt{color:var(--faint);font-size:12.5px}
dd{margin:0;font-size:17px;overflow-wrap:anywhere;font-weight:600;font-variant-numeric:tabular-nums}
.badge{display:inline-block;padding:1px 9px;border-radius:99px;font-size:12px;font-weight:600;
 white-space:nowrap;color:var(--tone,var(--faint));
 background:color-mix(in srgb,var(--tone,var(--faint)) 14%,transparent);vertical-align:middle}
.ran{--tone:var(--ran)}.cached{--tone:var(--cached)}.failed{--tone:var(--failed)}
.running{--tone:var(--size)}
.canceled,.not-reached{--tone:var(--canceled)}.meta{--tone:var(--faint)}
.bar.other{--tone:var(--other)}.bar.size{--tone:var(--size)}
h1 .badge.ran{--tone:var(--cached)}
.error{background:color-mix(in srgb,var(--failed) 10%,var(--card));color:var(--failed);
 border:1px solid color-mix(in srgb,var(--failed) 40%,transparent);border-radius:12px;
 padding:12px 16px;white-space:pre-wrap;overflow-wrap:anywhere;margin:0 0 16px}
.row{display:grid;grid-template-columns:minmax(120px,34%) 1fr 76px;gap:12px;align-items:center;
 min-height:27px}
.row:not(.axis):hover{background:color-mix(in srgb,var(--faint) 7%,transparent);border-radius:6px}
.label{white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.told{text-align:right;color:var(--faint);font-size:12.5px;font-variant-numeric:tabular-nums}
.track{position:relative;height:100%;min-height:27px;background:
 repeating-linear-gradient(90deg,var(--line) 0 1px,transparent 1px var(--step,100%))}
.sizes .track{background:none}
.axis .track{background:none}
.tick{position:absolute;bottom:2px;font-size:11.5px;color:var(--faint);white-space:nowrap;
 transform:translateX(-50%)}
.tick:first-child{transform:none}
.bar{position:absolute;top:7px;bottom:7px;min-width:3px;border-radius:4px;background:var(--tone)}
.legend{text-align:right;margin:-36px 0 12px;color:var(--faint);font-size:12.5px}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin:0 5px 0 14px;
 background:var(--tone)}
.legend .other{--tone:var(--other)}
.scroll{overflow-x:auto}
.graph{display:block;max-width:100%;height:auto}
.graph text{font-family:inherit;fill:var(--faint);font-size:12px}
.graph .name{fill:var(--text);font-weight:650;font-size:14.5px}
.graph .base{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:10.5px}
.graph .stage>rect{fill:var(--page);stroke:var(--line)}
.graph .stage>rect.edge-mark{fill:var(--tone);stroke:none}
.graph .edge{fill:none;stroke:var(--faint);stroke-width:1.5;opacity:.75}
.graph marker path{fill:var(--faint)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{text-align:left;color:var(--faint);font-weight:500;font-size:12.5px}
th,td{padding:6px 10px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child>*{border-bottom:0}
td:first-child{color:var(--faint)}
td code{overflow-wrap:anywhere}
td:nth-child(n+5),td:nth-child(2){white-space:nowrap}
.facts th{width:160px}.facts td:first-child{color:inherit}
.why{color:var(--faint);font-size:12.5px}
details summary{cursor:pointer;color:var(--faint);font-size:12.5px}
pre{margin:6px 0 2px;white-space:pre-wrap;overflow-wrap:anywhere}
details pre{background:var(--code);border-radius:8px;padding:8px 12px;max-height:320px;
 overflow:auto}
ul{margin:0;padding-left:18px}
@media(max-width:640px){
 .row{grid-template-columns:34% 1fr 66px;gap:8px}
 .legend{text-align:left;margin:0 0 10px}.legend i:first-child{margin-left:0}
 .tick:nth-child(even){display:none}
 section{padding:14px 12px}
 table:not(.facts) td:nth-child(3){min-width:230px}
 .graph{max-width:none}
}
"""
)
