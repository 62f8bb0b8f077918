//! The messages that a walsender builds.

use bytes::{BufMut, BytesMut};

use crate::frame::{put_cstr, put_frame};

/// OIDs of the column types in results.
pub(super) const TEXT: u32 = 25;
pub(super) const INT4: u32 = 23;
pub(super) const INT8: u32 = 20;
pub(super) const BYTEA: u32 = 17;

/// A column of a result with one row.
pub(super) struct Column<'a> {
    pub(super) name: &'a str,
    pub(super) oid: u32,
    pub(super) value: Option<&'a str>,
}

impl<'a> Column<'a> {
    pub(super) fn new(name: &'a str, oid: u32, value: &'a str) -> Column<'a> {
        Column { name, oid, value: Some(value) }
    }
}

/// Appends `RowDescription` and one `DataRow`.
pub(super) fn put_row(out: &mut BytesMut, columns: &[Column<'_>]) {
    let count = u16::try_from(columns.len()).unwrap_or_default();
    put_frame(out, b'T', |out| {
        out.put_u16(count);
        for column in columns {
            put_cstr(out, column.name);
            // No table, no column number; type; its size (-1: variable), modifier (-1: none), text format.
            out.put_u32(0);
            out.put_u16(0);
            out.put_u32(column.oid);
            out.put_i16(match column.oid {
                INT4 => 4,
                INT8 => 8,
                _ => -1,
            });
            out.put_i32(-1);
            out.put_u16(0);
        }
    });
    put_frame(out, b'D', |out| {
        out.put_u16(count);
        for column in columns {
            match column.value {
                Some(value) => {
                    out.put_u32(u32::try_from(value.len()).unwrap_or_default());
                    out.put_slice(value.as_bytes());
                }
                None => out.put_i32(-1),
            }
        }
    });
}

pub(super) fn put_command_complete(out: &mut BytesMut, tag: &str) {
    put_frame(out, b'C', |out| put_cstr(out, tag));
}

/// Idle, outside of a transaction.
pub(super) fn put_ready(out: &mut BytesMut) {
    put_frame(out, b'Z', |out| out.put_u8(b'I'));
}

pub(super) fn put_parameter(out: &mut BytesMut, name: &str, value: &str) {
    put_frame(out, b'S', |out| {
        put_cstr(out, name);
        put_cstr(out, value);
    });
}

/// An authentication request: its code and what belongs to it.
pub(super) fn put_authentication(out: &mut BytesMut, code: u32, fill: impl FnOnce(&mut BytesMut)) {
    put_frame(out, b'R', |out| {
        out.put_u32(code);
        fill(out);
    });
}

/// `severity` is ERROR (the connection goes on) or FATAL (it is closed).
pub(super) fn put_error(out: &mut BytesMut, severity: &str, sqlstate: &str, message: &str) {
    put_frame(out, b'E', |out| {
        for (field, text) in [(b'S', severity), (b'V', severity), (b'C', sqlstate), (b'M', message)] {
            out.put_u8(field);
            put_cstr(out, text);
        }
        out.put_u8(0);
    });
}

/// Both ends may send copy data from here on; the format is binary and has no columns.
pub(super) fn put_copy_both(out: &mut BytesMut) {
    put_frame(out, b'W', |out| {
        out.put_u8(0);
        out.put_u16(0);
    });
}
