package dbus

import (
	"encoding/binary"
	"math"
	"strings"
)

// Value is an argument of a call: its type and how it is written.
type Value struct {
	sig string
	put func(*writer)
}

// Signature is the D-Bus type of the value, such as "a(sv)".
func (v Value) Signature() string { return v.sig }

// Byte is a value of type y.
func Byte(n byte) Value { return Value{"y", func(w *writer) { w.buf = append(w.buf, n) }} }

// Bool is a value of type b.
func Bool(b bool) Value {
	n := uint32(0)
	if b {
		n = 1
	}
	return Value{"b", func(w *writer) { w.uint32(n) }}
}

// Int16 is a value of type n.
func Int16(n int16) Value { return Value{"n", func(w *writer) { w.uint16(uint16(n)) }} }

// Uint16 is a value of type q.
func Uint16(n uint16) Value { return Value{"q", func(w *writer) { w.uint16(n) }} }

// Int32 is a value of type i.
func Int32(n int32) Value { return Value{"i", func(w *writer) { w.uint32(uint32(n)) }} }

// Uint32 is a value of type u.
func Uint32(n uint32) Value { return Value{"u", func(w *writer) { w.uint32(n) }} }

// Int64 is a value of type x.
func Int64(n int64) Value { return Value{"x", func(w *writer) { w.uint64(uint64(n)) }} }

// Uint64 is a value of type t.
func Uint64(n uint64) Value { return Value{"t", func(w *writer) { w.uint64(n) }} }

// Double is a value of type d.
func Double(f float64) Value { return Value{"d", func(w *writer) { w.uint64(math.Float64bits(f)) }} }

// String is a value of type s.
func String(s string) Value { return Value{"s", func(w *writer) { w.text(s) }} }

// ObjectPath is a value of type o.
func ObjectPath(s string) Value { return Value{"o", func(w *writer) { w.text(s) }} }

// signature is a value of type g.
func signature(s string) Value { return Value{"g", func(w *writer) { w.signature(s) }} }

// Bytes is a value of type ay.
func Bytes(b []byte) Value {
	return Value{"ay", func(w *writer) {
		w.uint32(uint32(len(b)))
		w.buf = append(w.buf, b...)
	}}
}

// Strings is a value of type as.
func Strings(list ...string) Value {
	items := make([]Value, len(list))
	for i, s := range list {
		items[i] = String(s)
	}
	return Array("s", items...)
}

// Array is an array of values, all of the type elem.
func Array(elem string, items ...Value) Value {
	return Value{"a" + elem, func(w *writer) {
		w.align(4)
		at := len(w.buf)
		w.uint32(0)
		w.align(alignment(elem))
		start := len(w.buf)
		for _, v := range items {
			v.put(w)
		}
		binary.LittleEndian.PutUint32(w.buf[at:], uint32(len(w.buf)-start))
	}}
}

// Struct is a structure of values.
func Struct(fields ...Value) Value {
	var sig strings.Builder
	sig.WriteByte('(')
	for _, v := range fields {
		sig.WriteString(v.sig)
	}
	sig.WriteByte(')')
	return Value{sig.String(), func(w *writer) {
		w.align(8)
		for _, v := range fields {
			v.put(w)
		}
	}}
}

// Variant is a value together with its type, of type v.
func Variant(v Value) Value {
	return Value{"v", func(w *writer) {
		w.signature(v.sig)
		v.put(w)
	}}
}

// writer marshals in little-endian order; positions count from the start of the
// header or the body, which both begin at a multiple of eight.
type writer struct{ buf []byte }

func (w *writer) align(n int) {
	for len(w.buf)%n != 0 {
		w.buf = append(w.buf, 0)
	}
}

func (w *writer) uint16(n uint16) {
	w.align(2)
	w.buf = binary.LittleEndian.AppendUint16(w.buf, n)
}

func (w *writer) uint32(n uint32) {
	w.align(4)
	w.buf = binary.LittleEndian.AppendUint32(w.buf, n)
}

func (w *writer) uint64(n uint64) {
	w.align(8)
	w.buf = binary.LittleEndian.AppendUint64(w.buf, n)
}

func (w *writer) text(s string) {
	w.uint32(uint32(len(s)))
	w.buf = append(append(w.buf, s...), 0)
}

func (w *writer) signature(s string) {
	w.buf = append(w.buf, byte(len(s)))
	w.buf = append(append(w.buf, s...), 0)
}

// alignment is that of a type by the first letter of its signature.
func alignment(sig string) int {
	if sig == "" {
		return 1
	}
	switch sig[0] {
	case 'n', 'q':
		return 2
	case 'b', 'i', 'u', 's', 'o', 'a', 'h':
		return 4
	case 'x', 't', 'd', '(', '{':
		return 8
	}
	return 1 // y, g, v
}

// Marshal writes a value alone, as the body of a message would have it.
func Marshal(v Value) []byte {
	w := &writer{}
	v.put(w)
	return w.buf
}
