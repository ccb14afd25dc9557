//! A report as one HTML file that needs no other: chart, tables, charts of text. The figures are
//! JSON in a script element that nothing runs.

use crate::bench::report::Report;

const STYLE: &str = "body{font:15px/1.5 -apple-system,'Segoe UI',sans-serif;color:#1b1f24;\
    max-width:1200px;margin:2em auto;padding:0 1em}pre{font:12.5px/1.45 ui-monospace,\
    'DejaVu Sans Mono',monospace;background:#f6f8fa;padding:1em;overflow-x:auto}\
    svg{max-width:100%;height:auto}";

/// One part of a page: a heading and text of fixed width.
pub type Part = (&'static str, String);

/// Puts the page together.
pub fn write(report: &Report, svg: &str, parts: &[Part], json: &str) -> String {
    let machine = &report.machine;
    let title = "aegis-blocks bench";
    let place = format!(
        "{} ({} on {}), {} x {}, {}",
        machine.dir.display(),
        machine.file_system,
        machine.device,
        machine.cpus,
        machine.cpu,
        machine.kernel
    );
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n<p>{}</p>\n{svg}",
        escape_html(&place)
    );
    for (heading, text) in parts {
        page += &format!("<h2>{}</h2>\n<pre>{}</pre>\n", escape_html(heading), escape_html(text));
    }
    // Nothing in the figures may end the element that they are in.
    let json = json.replace("</", "<\\/");
    page + "<script type=\"application/json\" id=\"report\">"
        + &json
        + "</script>\n</body></html>\n"
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
