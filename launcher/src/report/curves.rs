//! The report's figure: loss and validation BLEU over the steps, as SVG.

use super::ReportInput;
use crate::terminal::text::thousands;

const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 340.0;
/// The size of a panel's plotting area, and the left edges of the panels.
const PLOT: (f64, f64) = (360.0, 220.0);
const LEFT: [f64; 2] = [56.0, 506.0];
const TOP: f64 = 78.0;
/// The most points of a curve: more would not be visible.
const MAX_POINTS: usize = 400;

/// Curves with more points are drawn without dots.
const MAX_DOTS: usize = 40;

/// Where the legend is: in a row above a panel, or in a column to its right.
#[derive(Clone, Copy, PartialEq)]
enum Legend {
    Above,
    Right,
}

/// The space between a panel and a legend to its right, for the last values.
const VALUES: f64 = 60.0;
/// The approximate width of a letter.
const LETTER: f64 = 6.6;

/// The style of lines at steps from which the run was resumed.
const RESUMED: &str = "stroke=\"#94a3b8\" stroke-dasharray=\"3 4\"";
const BLUE: &str = "#2563eb";
const ORANGE: &str = "#ea580c";
const GREEN: &str = "#059669";
const PURPLE: &str = "#9333ea";

struct Curve<'a> {
    name: &'a str,
    colour: &'a str,
    style: Style,
    points: Vec<(f64, f64)>,
}

/// How a curve is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Style {
    /// A line without dots.
    Line,
    /// A line with a dot at each point and its last value at its end.
    Dots,
    /// A dashed horizontal line for a constant, with its value at its end.
    Level,
}

impl Style {
    fn stroke(self, colour: &str) -> String {
        let dashes = if self == Self::Level { " stroke-dasharray=\"7 4\"" } else { "" };
        format!("stroke=\"{colour}\"{dashes}")
    }
}

/// Draws the curves of a run.
pub(crate) fn svg(input: &ReportInput) -> String {
    let step = |step: u64| step as f64;
    let scores = |score: fn(&crate::score::Scores) -> f64| {
        let scored = input.validations.iter().filter_map(|v| Some((v.step, v.scores.as_ref()?)));
        scored.map(|(at, scores)| (step(at), score(scores))).collect()
    };
    let loss = input.loss.iter().map(|(at, loss)| (step(*at), *loss)).collect();
    let valid = input.validations.iter().map(|v| (step(v.step), v.loss)).collect();
    let panels = [
        (
            "Loss",
            vec![
                Curve { name: "training", colour: BLUE, style: Style::Line, points: thin(loss) },
                Curve {
                    name: "validation",
                    colour: ORANGE,
                    style: Style::Dots,
                    points: thin(valid),
                },
            ],
        ),
        (
            "Validation BLEU",
            vec![
                Curve {
                    name: "13a (sacreBLEU)",
                    colour: GREEN,
                    style: Style::Dots,
                    points: thin(scores(|scores| scores.bleu_13a.score)),
                },
                Curve {
                    name: "tokenised (paper)",
                    colour: PURPLE,
                    style: Style::Dots,
                    points: thin(scores(|scores| scores.bleu_tokenized.score)),
                },
            ],
        ),
    ];
    let restarts: Vec<f64> =
        input.training.attempts.iter().skip(1).map(|a| step(a.from_step)).collect();
    let all = panels.iter().flat_map(|(_, curves)| curves).flat_map(|curve| &curve.points);
    let steps = all.map(|point| point.0).fold(step(input.training.steps.max(1)), f64::max);

    let mut svg = canvas(WIDTH);
    for (left, (title, curves)) in LEFT.into_iter().zip(&panels) {
        svg += &format!("<g transform=\"translate({left} {TOP})\">\n");
        svg += &panel(title, curves, ("step", steps), &restarts, Legend::Above);
        svg += "</g>\n";
    }
    svg + "</svg>\n"
}

/// A line of a [`chart`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    /// Its name, for the legend.
    pub name: String,
    pub colour: &'static str,
    /// Its points.
    pub course: Course,
}

/// The points of a line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Course {
    /// A line through points.
    Points(Vec<(f64, f64)>),
    /// A horizontal line, for a value without a place on the x axis.
    Level(f64),
}

impl Line {
    fn places(&self) -> impl Iterator<Item = f64> {
        let points = match &self.course {
            Course::Points(points) => points.as_slice(),
            Course::Level(_) => &[],
        };
        points.iter().map(|point| point.0)
    }
}

/// Draws lines with dots, over an x axis that begins at 0.
pub(crate) fn chart(title: &str, x_label: &str, lines: &[Line]) -> String {
    let last = lines.iter().flat_map(|line| line.places()).fold(0.0, f64::max);
    let last = if last > 0.0 { last } else { 1.0 };
    let mut curves = Vec::new();
    for Line { name, colour, course } in lines {
        let (style, mut points) = match course {
            Course::Points(points) => (Style::Dots, points.clone()),
            Course::Level(value) => (Style::Level, vec![(0.0, *value), (last, *value)]),
        };
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        curves.push(Curve { name, colour, style, points: thin(points) });
    }
    let panel = panel(title, &curves, (x_label, last), &[], Legend::Right);
    let longest = lines.iter().map(|line| line.name.len()).max().unwrap_or_default();
    let svg = canvas(LEFT[0] + PLOT.0 + VALUES + 22.0 + LETTER * longest as f64 + 12.0);
    svg + &format!("<g transform=\"translate({} {TOP})\">\n{panel}</g>\n</svg>\n", LEFT[0])
}

/// The beginning of the SVG.
fn canvas(width: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" \
         width=\"{width}\" height=\"{HEIGHT}\" font-size=\"12\" fill=\"#475569\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, 'DejaVu Sans', sans-serif\">\n\
         <rect width=\"{width}\" height=\"{HEIGHT}\" rx=\"8\" fill=\"#ffffff\"/>\n"
    )
}

/// Converts steps and values to coordinates in a panel.
struct Axes {
    steps: f64,
    bottom: f64,
    top: f64,
}

impl Axes {
    fn x(&self, step: f64) -> f64 {
        PLOT.0 * step / self.steps
    }

    fn y(&self, value: f64) -> f64 {
        PLOT.1 * (self.top - value) / (self.top - self.bottom)
    }
}

fn panel(
    title: &str,
    curves: &[Curve],
    (x_label, steps): (&str, f64),
    restarts: &[f64],
    place: Legend,
) -> String {
    let (width, height) = PLOT;
    let mut svg = format!(
        "<text x=\"0\" y=\"-44\" font-size=\"16\" font-weight=\"600\" fill=\"#0f172a\">{title}</text>\n"
    );
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let lowest = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let highest = points().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
    if lowest > highest {
        let (x, y) = (width / 2.0, height / 2.0);
        return svg
            + &format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">no points</text>\n");
    }
    let y_ticks = ticks(lowest.min(0.9 * highest), highest);
    let axes = Axes { steps, bottom: y_ticks[0], top: y_ticks[y_ticks.len() - 1] };

    svg += &frame(&axes, &y_ticks, x_label);
    for x in restarts.iter().map(|step| axes.x(*step)) {
        svg += &format!("<path d=\"M{x:.1} 0V{height}\" {RESUMED}/>\n");
    }
    let mut next = match place {
        Legend::Above => (0.0, -22.0),
        Legend::Right => (width + VALUES, 4.0),
    };
    for curve in curves.iter().filter(|curve| !curve.points.is_empty()) {
        let line = format!("{} stroke-width=\"2.5\"", curve.style.stroke(curve.colour));
        svg += &legend(&mut next, place, curve.name, &line);
        svg += &draw(curve, &axes);
    }
    if !restarts.is_empty() {
        svg += &legend(&mut next, place, "resumed", RESUMED);
    }
    svg + &last_values(curves, &axes)
}

/// The grid, the tick labels and the label of the x axis.
fn frame(axes: &Axes, y_ticks: &[f64], x_label: &str) -> String {
    let (width, height) = PLOT;
    let mut svg = String::new();
    for &tick in y_ticks {
        let (y, label) = (axes.y(tick), number(tick, y_ticks[1] - y_ticks[0]));
        svg += &format!(
            "<path d=\"M0 {y:.1}H{width}\" stroke=\"#e2e8f0\"/>\
             <text x=\"-8\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n",
            y + 4.0
        );
    }
    let below = height + 20.0;
    let x_ticks = ticks(0.0, axes.steps);
    let distance = x_ticks[1] - x_ticks[0];
    for tick in x_ticks.into_iter().filter(|tick| *tick <= axes.steps) {
        let label = match distance < 1.0 {
            true => number(tick, distance),
            false => thousands(tick as u64),
        };
        let x = axes.x(tick);
        svg += &format!("<text x=\"{x:.1}\" y=\"{below}\" text-anchor=\"middle\">{label}</text>\n");
    }
    let (x, y) = (width / 2.0, height + 38.0);
    svg + &format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{x_label}</text>\n")
}

/// Draws a legend entry at `next`, and advances `next` to the following entry.
fn legend(next: &mut (f64, f64), place: Legend, name: &str, line: &str) -> String {
    let (x, y) = *next;
    match place {
        Legend::Above => next.0 += 42.0 + LETTER * name.len() as f64,
        Legend::Right => next.1 += 20.0,
    }
    format!(
        "<path d=\"M{x} {y}h16\" {line}/><text x=\"{}\" y=\"{}\">{name}</text>\n",
        x + 22.0,
        y + 4.0
    )
}

fn draw(curve: &Curve, axes: &Axes) -> String {
    let colour = curve.colour;
    let places = || curve.points.iter().map(|point| (axes.x(point.0), axes.y(point.1)));
    let line: Vec<String> = places().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let mut svg = format!(
        "<polyline fill=\"none\" {} stroke-width=\"2\" stroke-linejoin=\"round\" points=\"{}\"/>\n",
        curve.style.stroke(colour),
        line.join(" ")
    );
    if curve.style == Style::Dots && curve.points.len() <= MAX_DOTS {
        for (x, y) in places() {
            svg += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>\n");
        }
    }
    svg
}

/// The last values of curves with dots and levels, placed so that they do not overlap.
fn last_values(curves: &[Curve], axes: &Axes) -> String {
    let mut labels: Vec<(f64, f64, f64, &str)> = curves
        .iter()
        .filter(|curve| curve.style != Style::Line)
        .filter_map(|curve| {
            let (step, value) = *curve.points.last()?;
            Some((axes.y(value) + 4.0, axes.x(step) + 8.0, value, curve.colour))
        })
        .collect();
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut svg = String::new();
    let mut free = f64::NEG_INFINITY;
    for (y, x, value, colour) in labels {
        let y = y.max(free);
        free = y + 14.0;
        svg += &format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\" font-weight=\"600\">{value:.2}</text>\n"
        );
    }
    svg
}

/// Averages neighbouring points, to at most [`MAX_POINTS`]; values that are not finite are left out.
fn thin(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let finite: Vec<_> = points.into_iter().filter(|(_, value)| value.is_finite()).collect();
    let stride = finite.len().div_ceil(MAX_POINTS).max(1);
    let mean = |points: &[(f64, f64)]| {
        let count = points.len() as f64;
        let (x, y) =
            points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (x / count, y / count)
    };
    finite.chunks(stride).map(mean).collect()
}

/// About five round numbers; the first is at most `low`, the last at least `high`.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let span = if high > low { high - low } else { high.abs().max(1.0) };
    let magnitude = 10f64.powf((span / 5.0).log10().floor());
    let distance = [1.0, 2.0, 2.5, 5.0, 10.0]
        .map(|factor| factor * magnitude)
        .into_iter()
        .find(|distance| span / distance <= 5.0)
        .unwrap_or(10.0 * magnitude);
    let (first, last) = ((low / distance).floor() as i64, (high / distance).ceil() as i64);
    (first..=last.max(first + 1)).map(|tick| tick as f64 * distance).collect()
}

/// Formats `tick` with as many decimals as the `distance` between ticks needs.
fn number(tick: f64, distance: f64) -> String {
    let decimals = (0..6).find(|&n| {
        let scaled = distance * 10f64.powi(n);
        (scaled - scaled.round()).abs() < 1e-6 * scaled
    });
    format!("{tick:.*}", decimals.unwrap_or(6) as usize)
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        assert_eq!(ticks(0.0, 100.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks(2.1, 8.3), [2.0, 4.0, 6.0, 8.0, 10.0]);
        assert!(ticks(3.0, 3.0).len() >= 2, "a flat curve has a range too");
        assert_eq!((number(2.5, 2.5), number(20.0, 20.0)), ("2.5".into(), "20".into()));
    }

    #[test]
    fn long_curves_are_thinned_and_nan_is_left_out() {
        let points: Vec<_> = (0..10_000).map(|k| (f64::from(k), 1.0)).collect();
        assert!(thin(points).len() <= MAX_POINTS);
        assert_eq!(thin(vec![(1.0, f64::NAN), (2.0, 5.0)]), [(2.0, 5.0)]);
    }

    #[test]
    fn the_figure_has_all_four_curves_and_the_restart() {
        let picture = svg(&example());
        assert_eq!(picture.matches("<polyline").count(), 4);
        assert_eq!(picture.matches("resumed").count(), 2, "one in each panel");
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
    }

    #[test]
    fn long_names_fit_into_the_chart() {
        let line = |k: u32| Line {
            name: format!("a system with a long name, {k}"),
            colour: BLUE,
            course: Course::Points(vec![(1.0, 2.0), (3.0, f64::from(k))]),
        };
        let picture = chart("BLEU", "step", &[1, 2, 3, 4, 5, 6].map(line));
        let number = |text: &str| text.split('"').next().unwrap().parse::<f64>().unwrap();
        let width = number(picture.split(" width=\"").nth(1).unwrap());
        let names = picture.lines().filter(|text| text.contains("a system with"));
        let right = |text: &str| LEFT[0] + number(text.split("<text x=\"").nth(1).unwrap());
        let rights: Vec<f64> = names.map(right).collect();
        assert_eq!(rights.len(), 6);
        assert!(rights.iter().all(|x| x + 6.0 * 28.0 < width), "{picture}");
    }

    #[test]
    fn a_level_spans_the_whole_chart() {
        let line = |name: &str, course| Line { name: name.into(), colour: BLUE, course };
        let points = line("rising", Course::Points(vec![(0.0, 30.0), (0.5, 31.0)]));
        let picture = chart("BLEU", "x", &[points.clone(), line("level", Course::Level(33.57))]);
        assert!(picture.contains(">level<") && picture.contains(">33.57<"), "{picture}");
        assert_eq!(picture.matches("<circle").count(), 2, "a level has no dots");
        let broken =
            picture.lines().find(|line| line.contains("<polyline") && line.contains("dash"));
        let broken = broken.unwrap_or_else(|| panic!("{picture}"));
        assert!(
            broken.contains("\"0.0,") && broken.contains(&format!(" {:.1},", PLOT.0)),
            "{broken}"
        );
        assert!(!chart("BLEU", "x", &[points]).contains("dash"));
    }

    #[test]
    fn a_run_without_points_has_a_picture_too() {
        assert_eq!(svg(&ReportInput::default()).matches("no points").count(), 2);
    }
}
