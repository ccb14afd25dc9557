//! Line charts as SVG: panels side by side, both axes logarithmic, every line named at its end.
//!
//! Knows nothing of stores. Fixed layout, no scripts, no fonts of its own: the file looks the same
//! in a browser, a README and a converter.

use std::fmt::Write;

/// A picture of one or more panels.
pub struct Chart {
    /// In bold, on top.
    pub title: String,
    /// One line under the title.
    pub subtitle: String,
    /// Small print below.
    pub caption: String,
    /// From left to right.
    pub panels: Vec<Panel>,
}

/// One pair of axes.
pub struct Panel {
    /// Above the axes; says what the vertical axis counts.
    pub title: String,
    /// Below the horizontal axis.
    pub x_label: String,
    /// Writes a value of the vertical axis.
    pub y_text: fn(f64) -> String,
    /// Drawn in order: later ones lie above.
    pub series: Vec<Series>,
}

/// One line.
pub struct Series {
    /// Written at the line's end.
    pub name: String,
    /// A colour of SVG.
    pub color: &'static str,
    /// How it is drawn.
    pub style: Style,
    /// Both coordinates above 0, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Thick, with a value at every point: the subject of the chart.
    Main,
    /// Thin, with points.
    Plain,
    /// Thin and dashed, without points.
    Dashed,
}

const PANEL_WIDTH: f64 = 360.0;
const PANEL_HEIGHT: f64 = 300.0;
const TOP: f64 = 118.0;
const LEFT: f64 = 72.0;
/// Between panels: names of lines, then the next panel's axis.
const GAP: f64 = 190.0;
const RIGHT: f64 = 152.0;
const BOTTOM: f64 = 92.0;
const NAME_HEIGHT: f64 = 17.0;

const INK: &str = "#1b1f24";
const FAINT_INK: &str = "#57606a";
const GRID: &str = "#e6e9ed";
const FONT: &str = "-apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif";

impl Chart {
    /// Draws the chart.
    pub fn to_svg(&self) -> String {
        let count = self.panels.len() as f64;
        let width = LEFT + count * PANEL_WIDTH + (count - 1.0) * GAP + RIGHT;
        let height = TOP + PANEL_HEIGHT + BOTTOM;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" font-family=\"{FONT}\" font-size=\"12.5\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        svg += &format_text(
            (LEFT - 48.0, 36.0),
            "start",
            INK,
            "font-size=\"19\" font-weight=\"700\"",
            &self.title,
        );
        svg += &format_text(
            (LEFT - 48.0, 59.0),
            "start",
            FAINT_INK,
            "font-size=\"13\"",
            &self.subtitle,
        );
        let small = "font-size=\"11.5\"";
        svg += &format_text((LEFT - 48.0, height - 16.0), "start", FAINT_INK, small, &self.caption);
        for (i, panel) in self.panels.iter().enumerate() {
            let left = LEFT + i as f64 * (PANEL_WIDTH + GAP);
            panel.draw(&mut svg, &panel.fit_scale(left));
        }
        svg += "</svg>\n";
        svg
    }
}

/// Where a panel's values lie in the picture.
struct Scale {
    left: f64,
    x: (f64, f64),
    y: (f64, f64),
}

impl Scale {
    fn x_position(&self, value: f64) -> f64 {
        let (low, high) = (self.x.0.ln(), self.x.1.ln());
        let share = if high > low { (value.ln() - low) / (high - low) } else { 0.5 };
        // A little air on both sides keeps points off the axes.
        self.left + PANEL_WIDTH * (0.03 + 0.94 * share)
    }

    fn y_position(&self, value: f64) -> f64 {
        let (low, high) = (self.y.0.ln(), self.y.1.ln());
        TOP + PANEL_HEIGHT * (1.0 - (value.ln() - low) / (high - low))
    }
}

impl Panel {
    fn all_points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.series.iter().flat_map(|series| series.points.iter().copied())
    }

    fn fit_scale(&self, left: f64) -> Scale {
        let low = |low: f64, value: f64| low.min(value);
        let high = |high: f64, value: f64| high.max(value);
        let x = (
            self.all_points().map(|p| p.0).fold(f64::INFINITY, low),
            self.all_points().map(|p| p.0).fold(0.0, high),
        );
        let y = (
            self.all_points().map(|p| p.1).fold(f64::INFINITY, low),
            self.all_points().map(|p| p.1).fold(0.0, high),
        );
        Scale { left, x, y: (round_down(y.0 / 1.25), round_up_nicely(y.1 * 1.25)) }
    }

    fn draw(&self, svg: &mut String, scale: &Scale) {
        let title = "font-size=\"14\" font-weight=\"600\"";
        *svg += &format_text((scale.left - 48.0, TOP - 20.0), "start", INK, title, &self.title);
        self.draw_grid(svg, scale);
        for series in &self.series {
            series.draw(svg, scale, self.y_text);
        }
        self.draw_names(svg, scale);
    }

    fn draw_grid(&self, svg: &mut String, scale: &Scale) {
        let (left, right) = (scale.left, scale.left + PANEL_WIDTH);
        let bottom = TOP + PANEL_HEIGHT;
        for tick in choose_ticks(scale.y) {
            let y = scale.y_position(tick);
            *svg += &format_line((left, y), (right, y), GRID);
            *svg +=
                &format_text((left - 10.0, y + 4.5), "end", FAINT_INK, "", &(self.y_text)(tick));
        }
        *svg += &format_line((left, bottom), (right, bottom), "#8c959f");
        let mut columns: Vec<f64> = self.all_points().map(|point| point.0).collect();
        columns.sort_by(f64::total_cmp);
        columns.dedup();
        for column in columns {
            let x = scale.x_position(column);
            *svg += &format_line((x, bottom), (x, bottom + 5.0), "#8c959f");
            *svg += &format_text((x, bottom + 21.0), "middle", FAINT_INK, "", &format!("{column}"));
        }
        let middle = left + PANEL_WIDTH / 2.0;
        *svg += &format_text((middle, bottom + 45.0), "middle", INK, "", &self.x_label);
    }

    /// Writes every line's name beside its last point, pushed apart where they would overlap.
    fn draw_names(&self, svg: &mut String, scale: &Scale) {
        let mut names: Vec<(f64, &Series)> = self
            .series
            .iter()
            .filter_map(|series| Some((scale.y_position(series.points.last()?.1), series)))
            .collect();
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        for i in 1..names.len() {
            names[i].0 = names[i].0.max(names[i - 1].0 + NAME_HEIGHT);
        }
        let overflow = names.last().map_or(0.0, |(y, _)| (y - TOP - PANEL_HEIGHT).max(0.0));
        for (y, series) in names {
            let weight = if series.style == Style::Main { "font-weight=\"700\"" } else { "" };
            let x = scale.left + PANEL_WIDTH + 4.0;
            *svg +=
                &format_text((x, y - overflow + 4.5), "start", series.color, weight, &series.name);
        }
    }
}

impl Series {
    fn draw(&self, svg: &mut String, scale: &Scale, y_text: fn(f64) -> String) {
        let mut path = String::new();
        for (i, (x, y)) in self.points.iter().enumerate() {
            let verb = if i == 0 { 'M' } else { 'L' };
            append_svg(
                &mut path,
                format_args!("{verb}{:.1} {:.1} ", scale.x_position(*x), scale.y_position(*y)),
            );
        }
        let (width, dashes) = match self.style {
            Style::Main => (3.0, ""),
            Style::Plain => (1.8, ""),
            Style::Dashed => (1.8, " stroke-dasharray=\"6 4\""),
        };
        append_svg(
            svg,
            format_args!(
                "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" \
             stroke-linejoin=\"round\" stroke-linecap=\"round\"{dashes}/>\n",
                path.trim_end(),
                self.color,
            ),
        );
        if self.style == Style::Dashed {
            return;
        }
        for (i, (x, y)) in self.points.iter().enumerate() {
            let (x, y, value) = (scale.x_position(*x), scale.y_position(*y), *y);
            let radius = if self.style == Style::Main { 4.5 } else { 3.0 };
            append_svg(
                svg,
                format_args!(
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{}\" \
                 stroke=\"#ffffff\" stroke-width=\"1.5\"/>\n",
                    self.color,
                ),
            );
            if self.style == Style::Main {
                // A white edge keeps the value legible where it crosses another line.
                let edge = "font-size=\"11\" font-weight=\"600\" paint-order=\"stroke\" \
                            stroke=\"#ffffff\" stroke-width=\"3.5\"";
                // The last one keeps clear of the names on the right.
                let is_last = i > 0 && i + 1 == self.points.len();
                let (x, anchor) = if is_last { (x + 5.0, "end") } else { (x, "middle") };
                *svg += &format_text((x, y + 19.0), anchor, self.color, edge, &y_text(value));
            }
        }
    }
}

fn format_line(from: (f64, f64), to: (f64, f64), color: &str) -> String {
    format!(
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{color}\"/>\n",
        from.0, from.1, to.0, to.1
    )
}

fn format_text(
    (x, y): (f64, f64),
    anchor: &str,
    color: &str,
    attributes: &str,
    words: &str,
) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{color}\" {attributes}>\
         {words}</text>\n"
    )
}

/// Writing to a string cannot fail.
fn append_svg(svg: &mut String, arguments: std::fmt::Arguments<'_>) {
    svg.write_fmt(arguments).expect("a string takes every byte");
}

const STEPS: [f64; 4] = [1.0, 2.0, 5.0, 10.0];

/// The largest of 1, 2, 5, 10, 20, 50 ... that is not above `value`.
fn round_down(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    STEPS.into_iter().map(|step| step * decade).rfind(|v| *v <= value).unwrap_or(decade)
}

/// The smallest of 1, 2, 5, 10, 20, 50 ... that is not below `value`.
fn round_up_nicely(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    STEPS.into_iter().map(|step| step * decade).find(|v| *v >= value).unwrap_or(10.0 * decade)
}

/// Round values from `low` to `high`, which are round themselves.
fn choose_ticks((low, high): (f64, f64)) -> Vec<f64> {
    let mut ticks = vec![low];
    let mut last = low;
    while last < high * 0.999 {
        // A hair above the last one, so that rounding up moves on.
        last = round_up_nicely(last * 1.01);
        ticks.push(last);
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_both_ends() {
        assert_eq!(
            choose_ticks((2000.0, 50_000.0)),
            [2000.0, 5000.0, 10_000.0, 20_000.0, 50_000.0]
        );
        assert_eq!((round_down(3999.0), round_up_nicely(4001.0)), (2000.0, 5000.0));
    }

    #[test]
    fn a_chart_of_one_point_still_draws_and_escapes_names() {
        let series = Series {
            name: "a<b".into(),
            color: "#000",
            style: Style::Main,
            points: vec![(8.0, 100.0)],
        };
        let panel = Panel {
            title: "t".into(),
            x_label: "x".into(),
            y_text: |y| format!("{y}"),
            series: vec![series],
        };
        let chart = Chart {
            title: "T".into(),
            subtitle: "s".into(),
            caption: String::new(),
            panels: vec![panel],
        };
        let svg = chart.to_svg();
        assert!(svg.contains("a&lt;b") && !svg.contains("NaN") && !svg.contains("inf"));
    }
}
