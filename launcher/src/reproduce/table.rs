//! Definitions of the paper's tables and figures: the files in configs/paper/tables.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tandem_config::schema::cluster::Device;

use crate::terminal::exit::Refused;
use crate::terminal::text::yaml_names;

/// A table or figure of the paper.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    pub title: String,
    /// Remarks, printed above the table.
    #[serde(default)]
    pub about: Vec<String>,
    /// Whether only speed is measured, with untrained weights.
    #[serde(default)]
    pub untrained: bool,
    /// How it is drawn.
    #[serde(default, with = "serde_yaml::with::singleton_map")]
    pub figure: Figure,
    pub rows: Vec<Row>,
}

/// How a table is drawn.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Figure {
    /// BLEU of each row, as bars.
    #[default]
    Bars,
    /// Milliseconds of each row, as bars.
    Latency,
    /// BLEU over the rows' `x`; rows without it are horizontal lines.
    Points {
        /// The label of the x axis.
        x: String,
    },
    /// BLEU of each row over how many sentences it translates in a second.
    Speed,
    /// Validation BLEU over the steps, one curve for each row.
    Curves,
    /// Negative log-likelihood of a word on the validation split over the steps, one curve for each row.
    WordCurves,
}

/// One system on one data set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// The data set and direction.
    pub data: String,
    pub system: String,
    /// The name of its run file in configs/paper.
    pub run: String,
    /// Overrides of the run file, as for `--set`.
    #[serde(default)]
    pub set: Vec<String>,
    /// Overrides for a trained model, as for `tandem evaluate`: a row's figures are those of its run
    /// translated in this way.
    #[serde(default)]
    pub decode: Vec<String>,
    /// The device to measure speed on, which takes precedence over all overrides.
    pub device: Option<Device>,
    /// The numbers that the paper gives.
    #[serde(default)]
    pub paper: Paper,
    /// Its place on the x axis of a figure.
    pub x: Option<f64>,
    /// A remark.
    pub note: Option<String>,
}

/// The numbers of Guo et al. 2020 (arXiv:2010.06138).
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Paper {
    /// BLEU on tokens, ignoring case on IWSLT14 but not on WMT (section 4.1).
    pub bleu: Option<f64>,
    /// Whether it has × instead of BLEU: "no convergence reached during training".
    #[serde(default)]
    pub no_convergence: bool,
    /// Trained parameters in millions, for WMT14 English-German.
    pub parameters_million: Option<f64>,
    /// The latency of a sentence of newstest2014, English to German, in milliseconds.
    pub latency_ms: Option<f64>,
}

impl Table {
    /// Reads a table: `1`, `3a`, `figure-2` or `figure 2`, from the folder `tables` in `configs`.
    ///
    /// # Errors
    /// No such table, or one that is not valid.
    pub(crate) fn read(configs: &Path, name: &str) -> Result<Self, Refused> {
        let folder = configs.join("tables");
        let name = name.trim().to_lowercase().replace(' ', "-");
        let names = yaml_names(&folder);
        let found =
            names.iter().find(|known| **known == name || **known == format!("table-{name}"));
        let Some(found) = found else {
            return Err(Refused(match names.is_empty() {
                true => format!(
                    "there are no tables in {}; start from the repository's folder, or give \
                     --configs",
                    folder.display()
                ),
                false => format!("there is no table `{name}`; available: {}", names.join(", ")),
            }));
        };
        let path = folder.join(found).with_extension("yaml");
        let text = fs::read_to_string(&path)
            .map_err(|error| Refused(format!("cannot read {}: {error}", path.display())))?;
        serde_yaml::from_str(&text).map_err(|error| Refused(format!("{}: {error}", path.display())))
    }
}

impl Row {
    /// Its run file in `configs`.
    pub(crate) fn file(&self, configs: &Path) -> PathBuf {
        configs.join(&self.run).with_extension("yaml")
    }

    /// All overrides of its run file, including `more`.
    pub(crate) fn overrides(&self, more: &[String]) -> Vec<String> {
        let device = self.device.map(|device| match device {
            Device::Auto => "cluster.device=auto".to_owned(),
            Device::Cpu => "cluster.device=cpu".to_owned(),
            Device::Cuda => "cluster.device=cuda".to_owned(),
        });
        self.set.iter().chain(more).cloned().chain(device).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn configs() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/paper")
    }

    /// Checks that every table of a folder is valid, and that each row has a valid run file.
    fn check_tables(configs: &Path) -> Vec<String> {
        let tables = yaml_names(&configs.join("tables"));
        let mut runs = BTreeSet::new();
        for name in &tables {
            let table = Table::read(configs, name).unwrap();
            for row in &table.rows {
                let file = row.file(configs);
                let (run, problems) = tandem_config::read(&file, &row.overrides(&[]))
                    .unwrap_or_else(|problems| panic!("{name}: {}: {problems}", row.system));
                assert!(problems.only_missing_inputs(), "{name}: {}: {problems}", row.system);
                runs.insert((run.run.name, file, row.set.clone()));
                let is_point = matches!(table.figure, Figure::Points { .. });
                let is_level = ["AB-Net", "Transformer-Base"].contains(&&*row.system);
                assert!(!is_point || row.x.is_some() || is_level, "{}", row.system);
            }
        }
        let names: BTreeSet<&String> = runs.iter().map(|(name, _, _)| name).collect();
        assert_eq!(names.len(), runs.len(), "two different runs have the same folder");
        tables
    }

    #[test]
    fn every_row_of_the_paper_has_a_valid_run_file() {
        let figures = ["figure-2", "figure-3a", "figure-3b", "latency"];
        let tables = ["table-1", "table-2", "table-3a", "table-3b"];
        let expected = [&["beside"], &figures[..], &tables].concat();
        assert_eq!(check_tables(&configs()), expected);
    }

    #[test]
    fn every_row_of_the_proof_has_a_valid_run_file() {
        let tables = check_tables(&configs().with_file_name("proof"));
        assert!(tables.iter().any(|name| name == "order"), "{tables:?}");
    }

    #[test]
    fn tables_are_found_by_their_usual_names() {
        let title = |name: &str| Table::read(&configs(), name).unwrap().title;
        assert!(title("1").starts_with("Table 1"));
        assert!(title("3A").starts_with("Table 3a"));
        assert!(title("Figure 2").starts_with("Figure 2"));
        let error = Table::read(&configs(), "4").unwrap_err().to_string();
        assert!(error.contains("table-3b"), "{error}");
        let error = Table::read(Path::new("/nowhere"), "1").unwrap_err().to_string();
        assert!(error.contains("--configs"), "{error}");
    }
}
