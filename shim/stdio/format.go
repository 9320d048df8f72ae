package stdio

import (
	"time"
	"unicode/utf8"
)

// format is how a log's records look. What the records of one moment have in common
// is made once, by stamp.
type format interface {
	// stamp appends it, for what a stream had at that time.
	stamp(b []byte, stream string, at time.Time) []byte
	// record appends one record: a line without its newline, or a piece of one that
	// goes on.
	record(b, stamp, piece []byte, whole bool) []byte
	// textOnly says that what is not UTF-8 is not kept as it is.
	textOnly() bool
}

// criFormat is that of the kubelet's design "CRI: Log Management":
//
//	2016-10-06T00:17:09.669794202Z stdout F the line
//
// with P instead of F for a piece of a line that goes on.
type criFormat struct{}

func (criFormat) stamp(b []byte, stream string, at time.Time) []byte {
	b = at.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, ' ')
	b = append(b, stream...)
	return append(b, ' ')
}

func (criFormat) record(b, stamp, piece []byte, whole bool) []byte {
	b = append(b, stamp...)
	tag := byte('P')
	if whole {
		tag = 'F'
	}
	b = append(b, tag, ' ')
	b = append(b, piece...)
	return append(b, '\n')
}

func (criFormat) textOnly() bool { return false }

// jsonFormat is that of Docker's json-file:
//
//	{"log":"the line\n","stream":"stdout","time":"2016-10-06T00:17:09.669794202Z"}
//
// without the newline for a piece of a line that goes on. Bytes that are not UTF-8
// become U+FFFD, as Docker has it.
type jsonFormat struct{}

func (jsonFormat) stamp(b []byte, stream string, at time.Time) []byte {
	b = append(b, `","stream":"`...)
	b = append(b, stream...)
	b = append(b, `","time":"`...)
	b = at.UTC().AppendFormat(b, time.RFC3339Nano)
	return append(b, "\"}\n"...)
}

func (jsonFormat) record(b, stamp, piece []byte, whole bool) []byte {
	b = append(b, `{"log":"`...)
	b = appendJSON(b, piece)
	if whole {
		b = append(b, `\n`...)
	}
	return append(b, stamp...)
}

func (jsonFormat) textOnly() bool { return true }

// appendJSON appends text as it is between the quotes of a JSON string.
func appendJSON(b, text []byte) []byte {
	const hex = "0123456789abcdef"
	from := 0 // what is to be copied as it is
	for i := 0; i < len(text); {
		c := text[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		r, size := rune(c), 1
		if c >= utf8.RuneSelf {
			if r, size = utf8.DecodeRune(text[i:]); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		b = append(b, text[from:i]...)
		switch r {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\t':
			b = append(b, `\t`...)
		case '\r':
			b = append(b, `\r`...)
		case utf8.RuneError:
			b = append(b, `\ufffd`...)
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i += size
		from = i
	}
	return append(b, text[from:]...)
}
