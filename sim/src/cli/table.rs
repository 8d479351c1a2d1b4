//! Tables as `kubectl` prints them: no borders, three blanks between columns.

use comfy_table::{Cell, ContentArrangement, Table};

/// Returns a table with a header; nothing else if there are no rows.
pub(super) fn text<R, C>(header: &[&str], rows: R) -> String
where
    R: IntoIterator<Item = C>,
    C: IntoIterator<Item = String>,
{
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.into_iter().map(Cell::new).collect::<Vec<Cell>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_apart_and_lines_end_where_the_text_ends() {
        let rows = [["cart", "1"], ["storefront", "12"]].map(|row| row.map(str::to_owned));
        let printed = text(&["NAME", "READY"], rows);
        assert_eq!(
            printed,
            "NAME         READY\ncart         1\nstorefront   12\n"
        );
    }
}
