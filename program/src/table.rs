//! Tables of text: columns under group headings, numbers aligned to the right.

use std::fmt;

/// A table that knows its headings and collects rows.
pub struct Table {
    /// Heading of a group of columns and how many they are.
    groups: Vec<(String, usize)>,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

const BETWEEN_COLUMNS: &str = "  ";
const BETWEEN_GROUPS: &str = "  |  ";

impl Table {
    /// Begins a table: each group has a heading (empty for none) and its columns' headings.
    pub fn new(groups: &[(&str, &[&str])]) -> Table {
        Table {
            groups: groups
                .iter()
                .map(|(name, columns)| (name.to_string(), columns.len()))
                .collect(),
            columns: groups.iter().flat_map(|(_, c)| c.iter().map(|c| c.to_string())).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, a cell for each column.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.push(cells);
    }

    fn column_widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| &row[column]);
            cells.chain([&self.columns[column]]).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        // A heading longer than its columns widens the first of them.
        let mut first = 0;
        for (name, count) in &self.groups {
            let missing = name.chars().count().saturating_sub(group_width(&widths, first, *count));
            widths[first] += missing;
            first += count;
        }
        widths
    }

    fn write_cells(
        &self,
        f: &mut fmt::Formatter<'_>,
        cells: &[String],
        widths: &[usize],
    ) -> fmt::Result {
        let mut column = 0;
        let mut text = String::new();
        for (group, (_, count)) in self.groups.iter().enumerate() {
            for i in 0..*count {
                text += match (group, i) {
                    (0, 0) => "",
                    (_, 0) => BETWEEN_GROUPS,
                    _ => BETWEEN_COLUMNS,
                };
                text += &format!("{:>1$}", cells[column], widths[column]);
                column += 1;
            }
        }
        writeln!(f, "{}", text.trim_end())
    }
}

fn group_width(widths: &[usize], first: usize, count: usize) -> usize {
    let columns: usize = widths[first..first + count].iter().sum();
    columns + BETWEEN_COLUMNS.len() * count.saturating_sub(1)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.column_widths();
        let mut heading = String::new();
        let mut first = 0;
        for (i, (name, count)) in self.groups.iter().enumerate() {
            heading += if i == 0 { "" } else { BETWEEN_GROUPS };
            heading += &format!("{:<1$}", name, group_width(&widths, first, *count));
            first += count;
        }
        writeln!(f, "{}", heading.trim_end())?;
        self.write_cells(f, &self.columns, &widths)?;
        self.rows.iter().try_for_each(|row| self.write_cells(f, row, &widths))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_under_their_groups() {
        let mut table = Table::new(&[("", &["n"]), ("long heading", &["a", "b"])]);
        table.row(vec!["1".into(), "22".into(), "333".into()]);
        let expected = "   |  long heading\n\
                        n  |        a    b\n\
                        1  |       22  333\n";
        assert_eq!(table.to_string(), expected);
    }
}
