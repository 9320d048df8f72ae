// Package leanjson reads JSON into Go values of a known shape, and writes text,
// without reflection.
//
// encoding/json learns the shape of every type anew in every process: half a
// millisecond for an OCI config, a quarter of what it takes to run a container.
// Here the shape is code: a function per struct, with a case per member.
//
// It is a fast path and nothing else. Whatever is out of the ordinary (a member
// that the shape does not know, the same member twice, a number that does not
// fit, broken JSON) makes the Reader give up, and the caller asks encoding/json
// instead, which knows what to make of it or what to say. So everything that is
// read here reads the same there; the fuzz tests of the users hold them to that.
//
// It is pure.
package leanjson

import (
	"encoding/json"
	"strconv"
	"strings"
)

// Reader reads one JSON text from its start to its end.
type Reader struct {
	text  string
	at    int
	given bool // up
}

// NewReader reads from data, of which it makes a copy that all texts share.
func NewReader(data []byte) *Reader { return &Reader{text: string(data)} }

// Done reports whether everything has been read and all of it was ordinary.
func (r *Reader) Done() bool {
	r.space()
	return !r.given && r.at == len(r.text)
}

func (r *Reader) giveUp() { r.given = true }

func (r *Reader) space() {
	for r.at < len(r.text) && (r.text[r.at] == ' ' || r.text[r.at] == '\n' || r.text[r.at] == '\t' || r.text[r.at] == '\r') {
		r.at++
	}
}

// take takes c if it comes next.
func (r *Reader) take(c byte) bool {
	r.space()
	if r.given || r.at >= len(r.text) || r.text[r.at] != c {
		return false
	}
	r.at++
	return true
}

func (r *Reader) expect(c byte) {
	if !r.take(c) {
		r.giveUp()
	}
}

func (r *Reader) word(w string) bool {
	r.space()
	if r.given || !strings.HasPrefix(r.text[r.at:], w) {
		return false
	}
	r.at += len(w)
	return true
}

// Object calls member for each member's name. It reads the value and returns
// true, or false for a name that it does not know. Null is an object without
// members.
func (r *Reader) Object(member func(name string) bool) {
	if r.word("null") {
		return
	}
	r.expect('{')
	if r.take('}') {
		return
	}
	for !r.given {
		name := r.quoted()
		r.expect(':')
		if r.given || !member(name) {
			r.giveUp()
		}
		if r.take('}') {
			return
		}
		r.expect(',')
	}
}

// quoted reads a text. The few that are more than printable ASCII are decoded by
// encoding/json.
func (r *Reader) quoted() string {
	r.expect('"')
	if r.given {
		return ""
	}
	start, plain := r.at, true
	for ; r.at < len(r.text); r.at++ {
		switch c := r.text[r.at]; {
		case c == '"':
			r.at++
			if plain {
				return r.text[start : r.at-1]
			}
			var s string
			if json.Unmarshal([]byte(r.text[start-1:r.at]), &s) != nil {
				r.giveUp()
			}
			return s
		case c == '\\':
			plain = false
			r.at++ // what comes next ends no text
		case c < ' ' || c >= 0x7f:
			plain = false
		}
	}
	r.at = len(r.text)
	r.giveUp()
	return ""
}

// Text reads a text. Null changes nothing, here and in the functions below that
// read no pointer, list or map.
func Text[T ~string](r *Reader, to *T) {
	if !r.word("null") {
		*to = T(r.quoted())
	}
}

// Bool reads true or false.
func Bool(r *Reader, to *bool) {
	switch {
	case r.word("true"):
		*to = true
	case r.word("false"):
		*to = false
	case !r.word("null"):
		r.giveUp()
	}
}

// digits reads an integer's digits.
func (r *Reader) digits() string {
	r.space()
	start := r.at
	if r.at < len(r.text) && r.text[r.at] == '-' {
		r.at++
	}
	first := r.at
	for r.at < len(r.text) && r.text[r.at] >= '0' && r.text[r.at] <= '9' {
		r.at++
	}
	leadingZero := r.at > first+1 && r.text[first] == '0'
	fraction := r.at < len(r.text) && (r.text[r.at] == '.' || r.text[r.at] == 'e' || r.text[r.at] == 'E')
	if leadingZero || fraction {
		r.giveUp()
	}
	return r.text[start:r.at]
}

// Int reads a number into a signed integer.
func Int[T ~int | ~int32 | ~int64](r *Reader, to *T) {
	if r.word("null") {
		return
	}
	n, err := strconv.ParseInt(r.digits(), 10, 64)
	if err != nil || int64(T(n)) != n {
		r.giveUp()
		return
	}
	*to = T(n)
}

// Uint reads a number into an unsigned integer.
func Uint[T ~uint | ~uint16 | ~uint32 | ~uint64](r *Reader, to *T) {
	if r.word("null") {
		return
	}
	n, err := strconv.ParseUint(r.digits(), 10, 64)
	if err != nil || uint64(T(n)) != n {
		r.giveUp()
		return
	}
	*to = T(n)
}

// Pointer reads into a new value, with read.
func Pointer[T any](r *Reader, to **T, read func(*Reader, *T)) {
	if r.word("null") {
		*to = nil
		return
	}
	if *to != nil { // encoding/json would merge the two
		r.giveUp()
		return
	}
	*to = new(T)
	read(r, *to)
}

// List reads an array, each element with read.
func List[T any](r *Reader, to *[]T, read func(*Reader, *T)) {
	if r.word("null") {
		*to = nil
		return
	}
	if *to != nil {
		r.giveUp()
		return
	}
	r.expect('[')
	if r.take(']') {
		*to = []T{}
		return
	}
	const few = 4 // as many as most lists have
	*to = make([]T, 0, few)
	for !r.given {
		var element T
		read(r, &element)
		*to = append(*to, element)
		if r.take(']') {
			return
		}
		r.expect(',')
	}
}

// Texts reads an array of texts.
func Texts[T ~string](r *Reader, to *[]T) { List(r, to, Text[T]) }

// TextMap reads an object whose members are texts.
func TextMap(r *Reader, to *map[string]string) {
	if r.word("null") {
		*to = nil
		return
	}
	if *to == nil {
		*to = map[string]string{}
	}
	r.Object(func(name string) bool {
		var value string
		Text(r, &value)
		(*to)[name] = value
		return true
	})
}

// Other has encoding/json read one value: of a kind too rare for a shape.
func Other(r *Reader, to any) {
	r.space()
	start, depth := r.at, 0
	for !r.given && r.at < len(r.text) {
		switch r.text[r.at] {
		case '"':
			r.quoted()
			r.at-- // the step below
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if depth < 0 || depth == 0 && r.text[r.at] == ',' {
			break // what follows belongs to the object or array around
		}
		r.at++
	}
	if r.given || json.Unmarshal([]byte(r.text[start:r.at]), to) != nil {
		r.giveUp()
	}
}

// AppendText appends a text in quotes.
func AppendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil { // a text always has a form in JSON
				return append(b, `""`...)
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
