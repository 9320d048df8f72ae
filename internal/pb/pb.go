// Package pb encodes and decodes protocol buffers messages, which are structs
// with the number of each field in a tag:
//
//	type hello struct {
//		Name  string `pb:"1"`
//		Count *int32 `pb:"2"` // nil is absent, which is not 0
//	}
//
// It is for the programs that must not link google.golang.org/protobuf, whose
// start-up costs more than theirs, and knows the kinds that their messages need:
// string, []byte, bool, int32, int64, uint32, uint64, float64 (double), *message,
// []string, []*message, map[string]string; enums are int32. A zero value is
// absent, as proto3 has it; *int32 is for proto2's optional fields, whose zero
// counts. Groups and packed lists do not exist here.
//
// It is pure.
package pb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"sync"
)

// The wire types of the protocol buffers encoding that occur in our messages.
const (
	typeVarint  = 0
	typeFixed64 = 1
	typeBytes   = 2
	typeFixed32 = 5
)

// errTruncated is a message that ends within a field.
var errTruncated = errors.New("message is cut short")

// field is how one struct field goes over the wire.
type field struct {
	number uint64
	index  int
	name   string
}

// fieldsOf caches the tagged fields of a struct type, in order.
var fieldsOf sync.Map // reflect.Type → []field

func fields(t reflect.Type) []field {
	if f, ok := fieldsOf.Load(t); ok {
		return f.([]field)
	}
	var list []field
	for i := range t.NumField() {
		f := t.Field(i)
		if number, err := strconv.ParseUint(f.Tag.Get("pb"), 10, 29); err == nil {
			list = append(list, field{number, i, f.Name})
		}
	}
	fieldsOf.Store(t, list)
	return list
}

// Marshal encodes a message, a pointer to a struct with pb tags. It fails only
// for a field of a kind that the codec does not know, a mistake of ours.
func Marshal(message any) ([]byte, error) {
	return appendMessage(nil, reflect.ValueOf(message).Elem())
}

func appendMessage(b []byte, m reflect.Value) ([]byte, error) {
	var err error
	for _, f := range fields(m.Type()) {
		v := m.Field(f.index)
		if v.IsZero() {
			continue // proto3: absent means zero
		}
		if b, err = appendField(b, f, v); err != nil {
			return nil, fmt.Errorf("encode %s.%s: %w", m.Type().Name(), f.name, err)
		}
	}
	return b, nil
}

func appendField(b []byte, f field, v reflect.Value) ([]byte, error) {
	tag := func(b []byte, wireType uint64) []byte {
		return binary.AppendUvarint(b, f.number<<3|wireType)
	}
	switch v.Kind() {
	case reflect.String:
		b = binary.AppendUvarint(tag(b, typeBytes), uint64(v.Len()))
		return append(b, v.String()...), nil
	case reflect.Bool: // true, or it would have been left out
		return append(tag(b, typeVarint), 1), nil
	case reflect.Int32, reflect.Int64:
		return binary.AppendUvarint(tag(b, typeVarint), uint64(v.Int())), nil
	case reflect.Uint32, reflect.Uint64:
		return binary.AppendUvarint(tag(b, typeVarint), v.Uint()), nil
	case reflect.Float64:
		return binary.LittleEndian.AppendUint64(tag(b, typeFixed64), math.Float64bits(v.Float())), nil
	case reflect.Pointer:
		if e := v.Elem(); e.Kind() == reflect.Int32 {
			return binary.AppendUvarint(tag(b, typeVarint), uint64(e.Int())), nil
		}
		return appendNested(tag(b, typeBytes), v.Elem())
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			entry := mapEntry{it.Key().String(), it.Value().String()}
			var err error
			if b, err = appendNested(tag(b, typeBytes), reflect.ValueOf(entry)); err != nil {
				return nil, err
			}
		}
		return b, nil
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			b = binary.AppendUvarint(tag(b, typeBytes), uint64(v.Len()))
			return append(b, v.Bytes()...), nil
		}
		for i := range v.Len() {
			e, err := v.Index(i), error(nil)
			if e.Kind() == reflect.Pointer {
				b, err = appendNested(tag(b, typeBytes), e.Elem())
			} else { // of strings; an empty one counts
				b = binary.AppendUvarint(tag(b, typeBytes), uint64(e.Len()))
				b = append(b, e.String()...)
			}
			if err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	return nil, fmt.Errorf("no encoding for %s", v.Type())
}

// mapEntry is how one element of a map<string, string> is sent.
type mapEntry struct {
	Key   string `pb:"1"`
	Value string `pb:"2"`
}

// appendNested appends a message after its length, for which one byte is left: a longer
// one moves the message.
func appendNested(b []byte, m reflect.Value) ([]byte, error) {
	at := len(b) + 1
	b, err := appendMessage(append(b, 0), m)
	if err != nil {
		return nil, err
	}
	var length [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(length[:], uint64(len(b)-at))
	b = append(b, length[1:n]...)
	copy(b[at-1+n:], b[at:])
	copy(b[at-1:], length[:n])
	return b, nil
}

// Unmarshal decodes data into a message, a pointer to a struct with pb tags.
// Unknown fields are skipped. What is decoded shares no memory with data.
func Unmarshal(data []byte, message any) error {
	m := reflect.ValueOf(message).Elem()
	if err := decodeMessage(data, m); err != nil {
		return fmt.Errorf("decode %s: %w", m.Type().Name(), err)
	}
	return nil
}

func decodeMessage(data []byte, m reflect.Value) error {
	known := fields(m.Type())
	for len(data) > 0 {
		tag, n := binary.Uvarint(data)
		if n <= 0 {
			return errTruncated
		}
		data = data[n:]
		raw, number, err := next(&data, tag&7)
		if err != nil {
			return err
		}
		for _, f := range known {
			if f.number != tag>>3 {
				continue
			}
			if err := decodeField(m.Field(f.index), tag&7, raw, number); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
		}
	}
	return nil
}

// next takes one value off data: raw for bytes, number for the rest.
func next(data *[]byte, wireType uint64) (raw []byte, number uint64, err error) {
	d := *data
	switch wireType {
	case typeVarint, typeBytes:
		value, n := binary.Uvarint(d)
		if n <= 0 {
			return nil, 0, errTruncated
		}
		d = d[n:]
		if wireType == typeVarint {
			*data = d
			return nil, value, nil
		}
		if value > uint64(len(d)) {
			return nil, 0, errTruncated
		}
		*data = d[value:]
		return d[:value], 0, nil
	case typeFixed64:
		if len(d) < 8 {
			return nil, 0, errTruncated
		}
		*data = d[8:]
		return nil, binary.LittleEndian.Uint64(d), nil
	case typeFixed32:
		if len(d) < 4 {
			return nil, 0, errTruncated
		}
		*data = d[4:]
		return nil, uint64(binary.LittleEndian.Uint32(d)), nil
	}
	return nil, 0, fmt.Errorf("unknown wire type %d", wireType)
}

func decodeField(v reflect.Value, wireType uint64, raw []byte, number uint64) error {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		if v = v.Elem(); v.Kind() == reflect.Struct {
			if wireType != typeBytes {
				return fmt.Errorf("wire type %d, want %d", wireType, typeBytes)
			}
			return decodeMessage(raw, v)
		}
	}
	want := uint64(typeVarint)
	switch v.Kind() {
	case reflect.String, reflect.Slice, reflect.Map:
		want = typeBytes
	case reflect.Float64:
		want = typeFixed64
	}
	if wireType != want {
		return fmt.Errorf("wire type %d, want %d", wireType, want)
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(string(raw))
	case reflect.Bool:
		v.SetBool(number != 0)
	case reflect.Int32:
		v.SetInt(int64(int32(number))) // negative numbers come as 64 bits
	case reflect.Int64:
		v.SetInt(int64(number))
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(number)
	case reflect.Float64:
		v.SetFloat(math.Float64frombits(number))
	case reflect.Map:
		var entry mapEntry
		if err := decodeMessage(raw, reflect.ValueOf(&entry).Elem()); err != nil {
			return err
		}
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		v.SetMapIndex(reflect.ValueOf(entry.Key), reflect.ValueOf(entry.Value))
	case reflect.Slice:
		return decodeElement(v, raw)
	default:
		return fmt.Errorf("no decoding for %s", v.Type())
	}
	return nil
}

func decodeElement(v reflect.Value, raw []byte) error {
	switch elem := v.Type().Elem(); elem.Kind() {
	case reflect.Uint8:
		v.SetBytes(append([]byte{}, raw...))
	case reflect.String:
		v.Set(reflect.Append(v, reflect.ValueOf(string(raw))))
	default:
		e := reflect.New(elem.Elem())
		if err := decodeMessage(raw, e.Elem()); err != nil {
			return err
		}
		v.Set(reflect.Append(v, e))
	}
	return nil
}
