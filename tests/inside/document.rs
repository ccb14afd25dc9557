//! `docs/format.md` beside the code: neither says what the other does not.
//!
//! Every table of the document with offsets and sizes is compared with an encoder: each field is
//! encoded with other values, and the bytes that change must be exactly those that the document
//! names. The tables have no gaps and every field of the code is in them. Codes, magics and limits
//! are compared with the constants, and the tables in the headers of the modules with those of the
//! document.

use std::collections::BTreeMap;

use crate::block::{BlockHeader, BlockId, BlockType, Compression, Encryption, Lsn};
use crate::checksum;
use crate::io::FileName;
use crate::local::format::checkpoint::{
    BELOW_MAX, Header, ImageLayout, ImageName, LogPosition, ROW_LEN, SegmentUse, Summary,
    encode_segment_table,
};
use crate::local::format::description::Description;
use crate::local::format::frame::{self, Cut, FrameHeader, Kind, TableRow};
use crate::local::format::location::Location;
use crate::local::format::manifest::{Identity, Manifest, Row};
use crate::local::format::page::{
    CHILDREN_MAX, DENSE_MAX, Record, encode_inner_page, encode_leaf, leaf_capacity,
};
use crate::local::format::segment::{LEN_MAX, SEQUENCE_MAX, SegmentHeader};
use crate::local::format::{FORMAT_VERSION, PAGE, le};
use crate::local::recovery::listing::FILE_NUMBER_MAX;

const DOCUMENT: &str = include_str!("../../docs/format.md");

/// A field as a table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    offset: usize,
    size: usize,
    name: String,
    meaning: String,
}

/// The cells of each row of each table of a text that begins with these columns.
fn tables(text: &str, columns: &[&str]) -> Vec<Vec<Vec<String>>> {
    let (mut tables, mut open) = (Vec::new(), false);
    for line in text.lines() {
        let line = line.trim_start_matches("//!").trim();
        let Some(line) = line.strip_prefix('|') else {
            open = false;
            continue;
        };
        let cells: Vec<String> =
            line.trim_end_matches('|').split('|').map(|c| c.trim().replace('`', "")).collect();
        if cells.iter().zip(columns).filter(|(cell, want)| cell == want).count() == columns.len() {
            open = true;
            tables.push(Vec::new());
        } else if open && !cells[0].contains("--") {
            tables.last_mut().expect("a table is open").push(cells);
        }
    }
    tables
}

fn section(title: &str) -> &'static str {
    let heading = format!("\n## {title}\n");
    let from = DOCUMENT.find(&heading).unwrap_or_else(|| panic!("no section {title:?}"));
    let text = &DOCUMENT[from + heading.len()..];
    text.find("\n## ").map_or(text, |to| &text[..to])
}

fn fields(title: &str) -> Vec<Field> {
    let mut found = tables(section(title), &["offset", "size", "field", "meaning"]);
    assert_eq!(found.len(), 1, "{title}: one table of fields");
    let field = |row: Vec<String>| Field {
        offset: row[0].parse().expect("an offset"),
        size: row[1].parse().expect("a size"),
        name: row[2].clone(),
        meaning: row[3].clone(),
    };
    found.remove(0).into_iter().map(field).collect()
}

/// Names beside codes, from the table that begins with this column.
fn codes(first_column: &str) -> BTreeMap<String, u64> {
    let found = tables(DOCUMENT, &[first_column, "code"]);
    assert_eq!(found.len(), 1, "{first_column}: one table");
    let code = |row: &Vec<String>| (row[0].clone(), row[1].parse().expect("a code"));
    found[0].iter().map(code).collect()
}

/// What the code encodes when a field (`""`: none) has a value instead of what it has otherwise.
type Encode = fn(&str, u64) -> Vec<u8>;

/// `value` for the field, zero for others.
fn only(field: &str, name: &str, value: u64) -> u64 {
    if field == name { value } else { 0 }
}

fn meta(field: &str, value: u64) -> Vec<u8> {
    let get = |name| only(field, name, value);
    let store_id = [get("store_id") as u8; 16];
    Description { store_id, salt: get("salt") }.encode()[..64].to_vec()
}

fn segment(field: &str, value: u64) -> Vec<u8> {
    let get = |name| only(field, name, value);
    let store_id = [get("store_id") as u8; 16];
    let header = SegmentHeader { store_id, sequence: get("sequence"), salt: get("salt") };
    header.encode()[..64].to_vec()
}

fn frame(field: &str, value: u64) -> Vec<u8> {
    let get = |name| only(field, name, value);
    let header = FrameHeader {
        kind: if get("kind") == 0 { Kind::Commit } else { Kind::Checkpoint },
        group_end: get("flags") & 1 != 0,
        last_part: get("flags") & 2 != 0,
        frame_len: get("frame_len") as u32,
        lsn: Lsn(get("lsn")),
        durable: Lsn(get("durable")),
        op_count: get("op_count") as u32,
        previous: get("previous") as u32,
        table_crc: get("table_crc") as u32,
        part: get("part") as u32,
        payload_len: get("payload_len"),
    };
    header.encode(0, 0).0.to_vec()
}

fn row(field: &str, value: u64) -> Vec<u8> {
    let get = |name| only(field, name, value);
    let header = BlockHeader {
        block_id: BlockId(get("id")),
        block_type: type_of(get("type")),
        compression: Compression::None,
        encryption: Encryption::None,
        data_size: get("len") as u32,
        uncompressed_size: get("uncompressed_size") as u32,
        checksum: get("checksum") as u32,
        version: get("version") as u16,
        flags: get("flags") as u16,
    };
    let entry = match get("operation") {
        0 => TableRow::Write(header),
        _ => TableRow::Move(header, Lsn(0)),
    };
    let mut table = Vec::new();
    table.extend(entry.rows().flatten());
    table.truncate(frame::ENTRY_LEN);
    table
}

fn type_of(value: u64) -> BlockType {
    if value == 0 { BlockType::TableData } else { BlockType::Metadata }
}

fn cut(field: &str, value: u64) -> Vec<u8> {
    let get = |name| only(field, name, value);
    Cut { sequence: get("sequence"), offset: get("offset") }.encode().to_vec()
}

fn image_name(field: &str, value: u64) -> Vec<u8> {
    let get = |name| only(field, name, value);
    ImageName { number: get("number"), salt: get("salt") }.encode().to_vec()
}

fn checkpoint(field: &str, value: u64) -> Vec<u8> {
    let get = |name| only(field, name, value);
    let position = LogPosition {
        sequence: get("sequence"),
        offset: get("offset"),
        chain: get("chain") as u32,
    };
    let below = if get("below_count") == 0 { 0 } else { 1 };
    let header = Header {
        store_id: [get("store_id") as u8; 16],
        name: ImageName { number: get("number"), salt: get("salt") },
        summary: Summary {
            lsn: Lsn(get("lsn")),
            position,
            id_max: get("id_max"),
            total_blocks: get("total_blocks"),
            total_bytes: get("total_bytes"),
        },
        layout: ImageLayout {
            entry_count: get("entry_count"),
            leaf_count: get("leaf_count"),
            root: get("root"),
            page_count: get("page_count"),
            table_page: get("table_page"),
            segment_count: get("segment_count"),
            table_crc: get("table_crc") as u32,
        },
        // Of no number and no salt, so that nothing but the count shows.
        below: vec![ImageName { number: 0, salt: 0 }; below],
    };
    header.encode()[..160].to_vec()
}

fn segment_row(field: &str, value: u64) -> Vec<u8> {
    let get = |name| only(field, name, value);
    encode_segment_table(&[SegmentUse {
        sequence: get("sequence"),
        number: get("number"),
        used_len: get("used_len"),
        live_len: get("live_len"),
        live_count: get("live_count"),
    }])
}

fn record(field: &str, value: u64) -> Vec<u8> {
    let get = |name| only(field, name, value);
    let location = Location {
        segment: get("segment") as u32,
        offset: get("offset") as u32,
        len: get("len") as u32,
        checksum: get("checksum") as u32,
        version: get("version") as u16,
        flags: get("flags") as u16,
        block_type: type_of(get("type")),
        compression: Compression::None,
        encryption: Encryption::None,
    };
    let record = Record { lsn: Lsn(get("lsn")), value: Some(location) };
    encode_leaf(&[(BlockId(1), record)], 0, 0, 0)[16..46].to_vec()
}

/// A leaf, or for `level` a page above; what follows the header is cut off.
fn page(field: &str, value: u64) -> Vec<u8> {
    let get = |name| only(field, name, value);
    let entries = vec![(BlockId(get("first")), Record { lsn: Lsn(0), value: None })];
    let count = if get("count") == 0 { 1 } else { 2 };
    let bytes = match get("level") {
        0 if count == 1 => encode_leaf(&entries, (get("id_len") % 251) as u8, 0, 0),
        0 => {
            let second = (BlockId(get("first") + 1), entries[0].1);
            encode_leaf(&[entries[0], second], 0, 0, 0)
        }
        level => encode_inner_page(&[BlockId(0)], level as u8, get("first"), 0, 0),
    };
    bytes[..16].to_vec()
}

fn manifest(field: &str, value: u64) -> Vec<u8> {
    let get = |name| only(field, name, value);
    let rows = if get("file_count") == 0 { vec![] } else { vec![manifest_row_of("", 0)] };
    let store_id = [get("store_id") as u8; 16];
    Manifest { store_id, lsn: Lsn(get("lsn")), rows }.encode()[..48].to_vec()
}

fn manifest_row_of(field: &str, value: u64) -> Row {
    let get = |name| only(field, name, value);
    let number = get("number");
    let name = match get("kind") {
        0 => FileName::Segment(number),
        _ => FileName::Checkpoint(number),
    };
    let file = Identity { name, len: get("len"), sequence: get("sequence"), salt: get("salt") };
    Row { file, crc: get("crc") as u32 }
}

fn manifest_row(field: &str, value: u64) -> Vec<u8> {
    let rows = vec![manifest_row_of(field, value)];
    Manifest { store_id: [0; 16], lsn: Lsn(0), rows }.encode()[48..].to_vec()
}

/// What each section describes: its encoder and length.
const STRUCTURES: [(&str, Encode, usize); 12] = [
    ("META", meta, 64),
    ("Segment header", segment, 64),
    ("Frame", frame, frame::HEADER_LEN),
    ("Table row", row, frame::ENTRY_LEN),
    ("Body of a cut", cut, frame::CUT_LEN),
    ("Body of a checkpoint mark", image_name, frame::CUT_LEN),
    ("Checkpoint header", checkpoint, 160),
    ("Segment table", segment_row, ROW_LEN),
    ("Page of an image", page, 16),
    ("Record of a leaf", record, 30),
    ("Manifest of a backup", manifest, 48),
    ("Row of a manifest", manifest_row, 48),
];

/// Fields that the encoders compute, or that this version has one value for.
const FIXED: [&str; 7] =
    ["magic", "version", "checksum", "crc", "zero", "compression", "encryption"];

fn is_fixed(title: &str, field: &Field) -> bool {
    // A row's own version and checksum are the user's and the payload's.
    let is_own = matches!(title, "Table row" | "Record of a leaf" | "Row of a manifest")
        && matches!(field.name.as_str(), "version" | "checksum" | "crc");
    FIXED.contains(&field.name.as_str()) && !is_own || field.name == "codes"
}

#[test]
fn tables_have_no_gaps_and_end_where_the_structures_do() {
    let described = tables(DOCUMENT, &["offset", "size", "field", "meaning"]).len();
    assert_eq!(described, STRUCTURES.len(), "every table of the document is compared");
    for (title, encode, len) in STRUCTURES {
        let end = fields(title).iter().fold(0, |end, field| {
            assert_eq!(field.offset, end, "{title}: {} begins where the last ends", field.name);
            end + field.size
        });
        assert_eq!((end, encode("", 0).len()), (len, len), "{title}");
    }
}

#[test]
fn every_field_changes_the_bytes_that_the_document_names_and_no_others() {
    for (title, encode, _) in STRUCTURES {
        let fields = fields(title);
        let plain = encode("", 0);
        let checksum = fields
            .iter()
            .find(|f| is_fixed(title, f) && matches!(f.name.as_str(), "checksum" | "crc"));
        for field in fields.iter().filter(|field| !is_fixed(title, field)) {
            let all_ones = encode(&field.name, u64::MAX);
            let mut changed: Vec<usize> =
                (0..plain.len()).filter(|at| plain[*at] != all_ones[*at]).collect();
            if let Some(sum) = checksum {
                changed.retain(|at| !(sum.offset..sum.offset + sum.size).contains(at));
            }
            let place: Vec<usize> = (field.offset..field.offset + field.size).collect();
            // Of these the encoders take small values only.
            let name = field.name.as_str();
            let counts = matches!(name, "count" | "below_count" | "file_count" | "kind");
            let want = if counts { &place[..1] } else { &place[..] };
            assert_eq!(changed, want, "{title}: {}", field.name);
            let one = encode(&field.name, 1);
            assert!(one[field.offset] != plain[field.offset], "{title}: {}", field.name);
            let rest = &one[field.offset + 1..field.offset + field.size];
            let little_endian = rest == &plain[field.offset + 1..field.offset + field.size];
            assert!(little_endian || field.size == 16, "{title}: {}", field.name);
        }
    }
}

#[test]
fn magics_versions_and_zeros_are_those_of_the_document() {
    for (title, encode, _) in STRUCTURES {
        let bytes = encode("", 0);
        for Field { offset, size, name, meaning } in fields(title) {
            let found = &bytes[offset..offset + size];
            match name.as_str() {
                "magic" => assert_eq!(found, meaning.as_bytes(), "{title}"),
                "version" if size == 4 => {
                    assert_eq!(le::u32(found, 0), FORMAT_VERSION, "{title}");
                    assert_eq!(meaning.parse(), Ok(FORMAT_VERSION), "{title}");
                }
                "zero" => assert!(found.iter().all(|byte| *byte == 0), "{title}"),
                _ => {}
            }
        }
    }
    for row in &tables(DOCUMENT, &["file", "magic"])[0] {
        let title = match row[0].as_str() {
            "META" => "META",
            "SEG-<16 hex>" => "Segment header",
            "CKPT-<16 hex>" => "Checkpoint header",
            "MANIFEST" => "Manifest of a backup",
            other => panic!("{other} is no file with a magic"),
        };
        assert_eq!(fields(title)[0].meaning, row[1]);
    }
}

#[test]
fn codes_are_those_of_the_document() {
    let kinds = [Kind::Commit, Kind::Cut, Kind::Witness, Kind::End, Kind::Checkpoint];
    let named = |kind: Kind| (format!("{kind:?}").to_lowercase(), kind as u64);
    assert_eq!(codes("frame kind"), kinds.map(named).into());
    for code in (0..=255_u8).filter(|code| !kinds.iter().any(|kind| *kind as u8 == *code)) {
        let mut bytes =
            FrameHeader::control_record(Kind::Witness, Lsn(1), Lsn(1), 0).encode(0, 0).0;
        bytes[8] = code;
        let sum = checksum::crc32c_append(checksum::crc32c_append(0, &[0; 8]), &bytes[8..]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(FrameHeader::decode(&bytes, 0, 0), None, "kind {code}");
    }

    let block = crate::block::Block::new(BlockId(1), BlockType::TableData, "");
    let mut rows = Vec::new();
    for entry in [
        TableRow::Write(block.header),
        TableRow::Delete(BlockId(1)),
        TableRow::Move(block.header, Lsn(1)),
    ] {
        rows.extend(entry.rows().flatten());
    }
    let found = rows.chunks(frame::ENTRY_LEN).map(|row| u64::from(row[20]));
    let names = ["write", "delete", "move", "origin"].map(str::to_string);
    assert_eq!(codes("operation"), names.into_iter().zip(found).collect());

    let types = (0..=255).filter_map(BlockType::from_code);
    let types = types.map(|ty| (format!("{ty:?}"), u64::from(ty.code())));
    assert_eq!(codes("type"), types.collect());
    let wide = &tables(DOCUMENT, &["type", "code", "compression", "code", "encryption", "code"])[0];
    let cells = |at: usize| -> Vec<(String, String)> {
        let pairs = wide.iter().map(|row| (row[at].clone(), row[at + 1].clone()));
        pairs.filter(|(name, _)| !name.is_empty()).collect()
    };
    let text = |name: String, code: u8| (name, code.to_string());
    let compressions = (0..=255).filter_map(Compression::from_code);
    let encryptions = (0..=255).filter_map(Encryption::from_code);
    assert!(compressions.map(|c| text(format!("{c:?}"), c.code())).eq(cells(2)));
    assert!(encryptions.map(|e| text(format!("{e:?}"), e.code())).eq(cells(4)));

    let file = |name| Row { file: Identity { name, len: 0, sequence: 0, salt: 0 }, crc: 0 };
    let names = [FileName::Meta, FileName::Segment(1), FileName::Checkpoint(1)];
    let rows = names.map(file).to_vec();
    let bytes = Manifest { store_id: [0; 16], lsn: Lsn(0), rows }.encode();
    let found = bytes[48..].chunks(48).map(|row| u64::from(le::u32(row, 0)));
    let names = ["META", "segment", "checkpoint"].map(str::to_string);
    assert_eq!(codes("file kind"), names.into_iter().zip(found).collect());
}

#[test]
fn limits_and_file_names_are_those_of_the_document() {
    let limits = &tables(DOCUMENT, &["what", "value"])[0];
    let found: Vec<(&str, u64)> =
        limits.iter().map(|row| (row[0].as_str(), row[1].parse().expect("a number"))).collect();
    let constants = [
        ("format version", u64::from(FORMAT_VERSION)),
        ("page", PAGE),
        ("frames start at multiples of", frame::ALIGN),
        ("highest sequence", SEQUENCE_MAX),
        ("longest segment", LEN_MAX),
        ("images below another", BELOW_MAX as u64),
        ("records of a leaf, ids consecutive", DENSE_MAX as u64),
        ("records of a leaf, distances", leaf_capacity(4) as u64),
        ("records of a leaf, whole ids", leaf_capacity(8) as u64),
        ("children of a page above the leaves", CHILDREN_MAX as u64),
        ("highest number in a name that is believed", FILE_NUMBER_MAX),
    ];
    assert_eq!(found, constants);
    let files = [
        FileName::Meta,
        FileName::Lock,
        FileName::Reserve,
        FileName::Segment(0),
        FileName::Checkpoint(0),
        FileName::Temporary(0),
        FileName::Manifest,
    ];
    let names = files.map(|file| file.to_string().replace("0000000000000000", "<16 hex>"));
    let listed = tables(DOCUMENT, &["name", "what it is"]);
    assert!(listed[0].iter().map(|row| &row[0]).eq(&names), "{names:?}");
}

/// Tables in the headers of modules: the source, which of its tables, the section, and the offset
/// at which that table begins.
const HEADERS: [(&str, usize, &str, usize); 8] = [
    (include_str!("../../src/local/format/description.rs"), 0, "META", 16),
    (include_str!("../../src/local/format/segment.rs"), 0, "Segment header", 16),
    (include_str!("../../src/local/format/frame.rs"), 0, "Frame", 0),
    (include_str!("../../src/local/format/frame.rs"), 1, "Table row", 0),
    (include_str!("../../src/local/format/checkpoint.rs"), 0, "Checkpoint header", 0),
    (include_str!("../../src/local/format/page.rs"), 0, "Page of an image", 0),
    (include_str!("../../src/local/format/page.rs"), 1, "Record of a leaf", 0),
    (include_str!("../../src/local/format/manifest.rs"), 1, "Row of a manifest", 0),
];

#[test]
fn headers_of_the_modules_say_the_same_as_the_document() {
    for (source, table, title, shift) in HEADERS {
        let rows = &tables(source, &["offset", "size", "field"])[table];
        let known = fields(title);
        let (mut compared, mut end) = (0, shift);
        for row in rows {
            // What follows the structure has a length of its own.
            let (Ok(offset), Ok(size)) = (row[0].parse::<usize>(), row[1].parse::<usize>()) else {
                continue;
            };
            assert_eq!(offset + shift, end, "{title}: {row:?}");
            end += size;
            // A row there may stand for neighbours here.
            let first = known.iter().find(|field| field.offset == offset + shift);
            let first = first.unwrap_or_else(|| panic!("{title}: nothing begins at {row:?}"));
            assert!(known.iter().any(|f| f.offset + f.size == end), "{title}: {row:?}");
            let is_one = first.size == size;
            let name = row[2].replace("format version", "version");
            assert!(!is_one || name == first.name, "{title}: {row:?} is {}", first.name);
            compared += 1;
        }
        assert!(compared >= 2, "{title}: the header has a table");
        assert_eq!(end, known.last().map_or(0, |last| last.offset + last.size), "{title}");
    }
}
