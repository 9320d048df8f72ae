package dbus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// The types of messages.
const (
	typeCall   = 1
	typeReply  = 2
	typeError  = 3
	typeSignal = 4
)

// The codes of header fields.
const (
	fieldPath        = 1
	fieldInterface   = 2
	fieldMember      = 3
	fieldErrorName   = 4
	fieldReplySerial = 5
	fieldDestination = 6
	fieldSender      = 7
	fieldSignature   = 8
)

// Limits on what is read. The specification's are 128 MiB and 64 levels; what
// systemd says to us is far below.
const (
	maxBody   = 1 << 20
	maxHeader = 1 << 16
	maxDepth  = 16
)

var errShort = errors.New("message is cut short")

// Message is one that was received.
type Message struct {
	kind        byte
	serial      uint32
	replySerial uint32

	Path, Interface, Member, Sender string
	errorName, signature            string

	order binary.ByteOrder
	body  []byte
}

// IsSignal says whether it is a signal of that name.
func (m *Message) IsSignal(iface, member string) bool {
	return m.kind == typeSignal && m.Interface == iface && m.Member == member
}

// Args decodes the body: integers, bool, float64 and string as they are, []any
// for arrays and structures, and of a variant what is in it.
func (m *Message) Args() ([]any, error) {
	r := reader{data: m.body, order: m.order}
	var args []any
	for sig := m.signature; sig != ""; {
		one, rest, err := splitType(sig)
		if err != nil {
			return nil, err
		}
		v, err := r.value(one, 0)
		if err != nil {
			return nil, err
		}
		args, sig = append(args, v), rest
	}
	return args, nil
}

// Text is the i-th argument if it is a string, else "".
func (m *Message) Text(i int) string {
	args, err := m.Args()
	if err != nil || i >= len(args) {
		return ""
	}
	s, _ := args[i].(string)
	return s
}

func encodeCall(serial uint32, c Call) []byte {
	body := &writer{}
	sig := ""
	for _, v := range c.Args {
		sig += v.sig
		v.put(body)
	}
	field := func(code byte, v Value) Value { return Struct(Byte(code), Variant(v)) }
	fields := []Value{field(fieldPath, ObjectPath(c.Path)), field(fieldMember, String(c.Member))}
	if c.Interface != "" {
		fields = append(fields, field(fieldInterface, String(c.Interface)))
	}
	if c.Destination != "" {
		fields = append(fields, field(fieldDestination, String(c.Destination)))
	}
	if sig != "" {
		fields = append(fields, field(fieldSignature, signature(sig)))
	}
	w := &writer{buf: []byte{'l', typeCall, 0, 1}}
	w.uint32(uint32(len(body.buf)))
	w.uint32(serial)
	Array("(yv)", fields...).put(w)
	w.align(8)
	return append(w.buf, body.buf...)
}

// readMessage reads one message. It allocates as much as the limits allow only
// for bytes that the peer sends.
func readMessage(in io.Reader) (*Message, error) {
	var fixed [16]byte
	if _, err := io.ReadFull(in, fixed[:]); err != nil {
		return nil, err
	}
	m := &Message{kind: fixed[1]}
	switch fixed[0] {
	case 'l':
		m.order = binary.LittleEndian
	case 'B':
		m.order = binary.BigEndian
	default:
		return nil, fmt.Errorf("message has byte order %q", fixed[0])
	}
	if fixed[3] != 1 {
		return nil, fmt.Errorf("message is of protocol version %d", fixed[3])
	}
	body, fields := m.order.Uint32(fixed[4:]), m.order.Uint32(fixed[12:])
	m.serial = m.order.Uint32(fixed[8:])
	if body > maxBody || fields > maxHeader {
		return nil, fmt.Errorf("message with %d bytes of header fields and %d of body is too large", fields, body)
	}
	header := make([]byte, (fields+7)/8*8)
	if _, err := io.ReadFull(in, header); err != nil {
		return nil, err
	}
	m.body = make([]byte, body)
	if _, err := io.ReadFull(in, m.body); err != nil {
		return nil, err
	}
	return m, m.parseFields(header[:fields])
}

// parseFields reads the header's array of (yv). It starts at byte 16 of the
// message, so alignment counts from its start too.
func (m *Message) parseFields(data []byte) error {
	r := reader{data: data, order: m.order}
	for r.pos < len(r.data) {
		if err := r.align(8); err != nil {
			return err
		}
		code, err := r.byte()
		if err != nil {
			return err
		}
		v, err := r.value("v", 0)
		if err != nil {
			return fmt.Errorf("header field %d: %w", code, err)
		}
		text, isText := v.(string)
		number, isNumber := v.(uint32)
		to := map[byte]*string{
			fieldPath: &m.Path, fieldInterface: &m.Interface, fieldMember: &m.Member, fieldSender: &m.Sender,
			fieldErrorName: &m.errorName, fieldSignature: &m.signature,
		}[code]
		switch {
		case to != nil && isText:
			*to = text
		case code == fieldReplySerial && isNumber:
			m.replySerial = number
		case to != nil || code == fieldReplySerial:
			return fmt.Errorf("header field %d is of the wrong type", code)
		}
	}
	return nil
}

// splitType cuts the first complete type off a signature.
func splitType(sig string) (one, rest string, err error) {
	n, err := typeLength(sig, 0)
	if err != nil {
		return "", "", err
	}
	return sig[:n], sig[n:], nil
}

func typeLength(sig string, depth int) (int, error) {
	bad := fmt.Errorf("signature %.40q is malformed", sig)
	if sig == "" || depth > maxDepth {
		return 0, bad
	}
	switch sig[0] {
	case 'y', 'b', 'n', 'q', 'i', 'u', 'x', 't', 'd', 's', 'o', 'g', 'v', 'h':
		return 1, nil
	case 'a':
		n, err := typeLength(sig[1:], depth+1)
		return n + 1, err
	case '(', '{':
		end := byte(')')
		if sig[0] == '{' {
			end = '}'
		}
		at := 1
		for at < len(sig) && sig[at] != end {
			n, err := typeLength(sig[at:], depth+1)
			if err != nil {
				return 0, err
			}
			at += n
		}
		if at == 1 || at >= len(sig) {
			return 0, bad
		}
		return at + 1, nil
	}
	return 0, bad
}

// reader unmarshals.
type reader struct {
	data  []byte
	pos   int
	order binary.ByteOrder
}

func (r *reader) take(n int) ([]byte, error) {
	if n < 0 || n > len(r.data)-r.pos {
		return nil, errShort
	}
	b := r.data[r.pos : r.pos+n]
	r.pos += n
	return b, nil
}

func (r *reader) align(n int) error {
	_, err := r.take((n - r.pos%n) % n)
	return err
}

// fixed takes an aligned number of n bytes.
func (r *reader) fixed(n int) ([]byte, error) {
	if err := r.align(n); err != nil {
		return nil, err
	}
	return r.take(n)
}

func (r *reader) byte() (byte, error) {
	b, err := r.take(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

func (r *reader) uint32() (uint32, error) {
	b, err := r.fixed(4)
	if err != nil {
		return 0, err
	}
	return r.order.Uint32(b), nil
}

// text takes a string with its final NUL.
func (r *reader) text(length int) (string, error) {
	b, err := r.take(length)
	if err != nil {
		return "", err
	}
	end, err := r.byte()
	if err == nil && end != 0 {
		err = errors.New("string without its end")
	}
	return string(b), err
}

// value takes one value of a complete type. Every value takes at least one byte,
// so what is allocated is bounded by what was received.
func (r *reader) value(sig string, depth int) (any, error) {
	if sig == "" || depth > maxDepth {
		return nil, errors.New("values are nested too deeply")
	}
	switch sig[0] {
	case 'y':
		return r.byte()
	case 'n', 'q':
		b, err := r.fixed(2)
		if err != nil {
			return nil, err
		}
		if sig[0] == 'n' {
			return int16(r.order.Uint16(b)), nil
		}
		return r.order.Uint16(b), nil
	case 'b', 'i', 'u', 'h':
		n, err := r.uint32()
		switch sig[0] {
		case 'b':
			return n != 0, err
		case 'i':
			return int32(n), err
		}
		return n, err
	case 'x', 't', 'd':
		b, err := r.fixed(8)
		if err != nil {
			return nil, err
		}
		n := r.order.Uint64(b)
		switch sig[0] {
		case 'x':
			return int64(n), nil
		case 'd':
			return math.Float64frombits(n), nil
		}
		return n, nil
	case 's', 'o':
		n, err := r.uint32()
		if err != nil || n > maxBody {
			return nil, errors.Join(err, errShort)
		}
		return r.text(int(n))
	case 'g':
		n, err := r.byte()
		if err != nil {
			return nil, err
		}
		return r.text(int(n))
	case 'v':
		inner, err := r.value("g", depth+1)
		if err != nil {
			return nil, err
		}
		one, rest, err := splitType(inner.(string)) // g is a string
		if err != nil || rest != "" {
			return nil, fmt.Errorf("variant of type %.40q", inner)
		}
		return r.value(one, depth+1)
	case 'a':
		return r.array(sig[1:], depth)
	}
	return r.fields(sig[1:len(sig)-1], depth) // ( or {
}

func (r *reader) array(elem string, depth int) (any, error) {
	n, err := r.uint32()
	if err != nil {
		return nil, err
	}
	if err := r.align(alignment(elem)); err != nil {
		return nil, err
	}
	if n > maxBody || int(n) > len(r.data)-r.pos {
		return nil, errShort
	}
	var list []any
	for end := r.pos + int(n); r.pos < end; {
		v, err := r.value(elem, depth+1)
		if err != nil {
			return nil, err
		}
		if r.pos > end {
			return nil, errShort
		}
		list = append(list, v)
	}
	return list, nil
}

func (r *reader) fields(sig string, depth int) (any, error) {
	if err := r.align(8); err != nil {
		return nil, err
	}
	var list []any
	for sig != "" {
		one, rest, err := splitType(sig)
		if err != nil {
			return nil, err
		}
		v, err := r.value(one, depth+1)
		if err != nil {
			return nil, err
		}
		list, sig = append(list, v), rest
	}
	return list, nil
}

// FieldTypes are the types of a structure's fields: of "(st)", "s" and "t".
func FieldTypes(sig string) ([]string, error) {
	one, rest, err := splitType(sig)
	if err != nil || rest != "" || one[0] != '(' {
		return nil, fmt.Errorf("%.40q is not the type of a structure", sig)
	}
	var types []string
	for sig = one[1 : len(one)-1]; sig != ""; {
		if one, sig, err = splitType(sig); err != nil {
			return nil, err
		}
		types = append(types, one)
	}
	return types, nil
}

// IsType says whether sig is one complete type.
func IsType(sig string) bool {
	_, rest, err := splitType(sig)
	return err == nil && rest == ""
}
