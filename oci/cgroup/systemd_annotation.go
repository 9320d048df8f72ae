package cgroup

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/strake-containers/strake/internal/dbus"
)

// AnnotationPrefix begins the annotations that set properties of the scope:
// "org.systemd.property.TimeoutStopUSec": "uint64 10000000".
const AnnotationPrefix = "org.systemd.property."

// maxProperty bounds the text of one property.
const maxProperty = 1 << 14

// annotatedProperties are the properties that a config's annotations ask for, by
// name. Values are in GVariant's text format; a time may be given in seconds by a
// name in Sec.
func annotatedProperties(annotations map[string]string) ([]property, error) {
	var all []property
	for _, key := range sortedKeys(annotations) {
		name, ok := strings.CutPrefix(key, AnnotationPrefix)
		if !ok {
			continue
		}
		p, err := annotatedProperty(name, annotations[key])
		if err != nil {
			return nil, fmt.Errorf("annotations[%.200q]: %w", key, err)
		}
		all = append(all, p)
	}
	return all, nil
}

func annotatedProperty(name, text string) (property, error) {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	if len(name) < 3 || len(name) > 100 || strings.Trim(name, letters) != "" {
		return property{}, fmt.Errorf("%.100q is not a property's name", name)
	}
	if len(text) > maxProperty {
		return property{}, fmt.Errorf("longer than %d bytes", maxProperty)
	}
	v, err := parseVariant(text)
	if err != nil {
		return property{}, fmt.Errorf("%.100q: %w: give a value in GVariant's text format, such as 'text', true or uint64 5", text, err)
	}
	stem, seconds := strings.CutSuffix(name, "Sec")
	if !seconds || stem == "" || !strings.ContainsRune(letters[26:], rune(stem[len(stem)-1])) {
		return property{name, v.value}, nil
	}
	// TimeoutStopSec is for people; on the bus it is TimeoutStopUSec.
	if !v.isNumber || v.number < 0 || v.number > 1e12 {
		return property{}, fmt.Errorf("%.100q is not a number of seconds", text)
	}
	return property{stem + "USec", dbus.Uint64(uint64(v.number * 1e6))}, nil
}

// variant is a parsed value.
type variant struct {
	value    dbus.Value
	number   float64
	isNumber bool
}

func parseVariant(text string) (variant, error) {
	p := &variantParser{text: text}
	v, err := p.value("", 0)
	if err != nil {
		return v, err
	}
	if p.space(); p.text != "" {
		return v, fmt.Errorf("%.40q is left over", p.text)
	}
	return v, nil
}

// variantParser reads GVariant's text format from the front of text. A value's
// type is given by its surroundings, a keyword or "@type", or follows from it.
type variantParser struct{ text string }

const maxVariantDepth = 8

// typeKeywords are the names of types, which go before a value.
var typeKeywords = map[string]string{
	"boolean": "b", "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u",
	"int64": "x", "uint64": "t", "double": "d", "string": "s", "objectpath": "o",
}

func (p *variantParser) space() { p.text = strings.TrimLeft(p.text, " \t\n") }

func (p *variantParser) eat(s string) bool {
	p.space()
	rest, ok := strings.CutPrefix(p.text, s)
	if ok {
		p.text = rest
	}
	return ok
}

// word takes what is not a separator.
func (p *variantParser) word() string {
	n := strings.IndexAny(p.text, " \t\n,[]()<>'\"")
	if n < 0 {
		n = len(p.text)
	}
	word := p.text[:n]
	p.text = p.text[n:]
	return word
}

func (p *variantParser) value(sig string, depth int) (variant, error) {
	if depth > maxVariantDepth {
		return variant{}, fmt.Errorf("nested more than %d deep", maxVariantDepth)
	}
	p.space()
	switch {
	case p.text == "":
		return variant{}, fmt.Errorf("a value is missing")
	case p.eat("@"):
		end := strings.IndexAny(p.text, " \t\n")
		if end <= 0 || !dbus.IsType(p.text[:end]) || sig != "" && sig != p.text[:end] {
			return variant{}, fmt.Errorf("@ is for a type, in its place")
		}
		sig, p.text = p.text[:end], p.text[end:]
		return p.value(sig, depth+1)
	case p.text[0] == '\'' || p.text[0] == '"':
		return p.quoted(sig)
	case p.text[0] == '[':
		return p.array(sig, depth)
	case p.text[0] == '(':
		return p.structure(sig, depth)
	case p.eat("<"):
		v, err := p.value("", depth+1)
		if err == nil && (!p.eat(">") || sig != "" && sig != "v") {
			err = fmt.Errorf("a variant is not closed, or in the wrong place")
		}
		return variant{value: dbus.Variant(v.value)}, err
	}
	word := p.word()
	if kind, ok := typeKeywords[word]; ok {
		if sig != "" && sig != kind {
			return variant{}, fmt.Errorf("%s where the type is %.20q", word, sig)
		}
		return p.value(kind, depth+1)
	}
	return scalar(word, sig)
}

// scalar is a truth value or a number.
func scalar(word, sig string) (variant, error) {
	if (word == "true" || word == "false") && (sig == "" || sig == "b") {
		return variant{value: dbus.Bool(word == "true")}, nil
	}
	if sig == "" {
		sig = "i"
		if strings.ContainsAny(word, ".eE") && !strings.HasPrefix(word, "0x") {
			sig = "d"
		}
	}
	signed := func(bits int) (int64, error) { return strconv.ParseInt(word, 0, bits) }
	unsigned := func(bits int) (uint64, error) { return strconv.ParseUint(word, 0, bits) }
	var v variant
	var err error
	var i int64
	var u uint64
	var f float64
	switch sig {
	case "y":
		u, err = unsigned(8)
		v.value = dbus.Byte(byte(u))
	case "q":
		u, err = unsigned(16)
		v.value = dbus.Uint16(uint16(u))
	case "u":
		u, err = unsigned(32)
		v.value = dbus.Uint32(uint32(u))
	case "t":
		u, err = unsigned(64)
		v.value = dbus.Uint64(u)
	case "n":
		i, err = signed(16)
		v.value = dbus.Int16(int16(i))
	case "i":
		i, err = signed(32)
		v.value = dbus.Int32(int32(i))
	case "x":
		i, err = signed(64)
		v.value = dbus.Int64(i)
	case "d":
		f, err = strconv.ParseFloat(word, 64)
		v.value = dbus.Double(f)
	default:
		return v, fmt.Errorf("%.40q where the type is %.20q", word, sig)
	}
	if err != nil {
		return v, fmt.Errorf("%.40q is not a value of type %s", word, sig)
	}
	v.number, v.isNumber = float64(i)+float64(u)+f, true // one of them is not zero
	return v, nil
}

// quoted is a string in single or double quotes, with backslashes.
func (p *variantParser) quoted(sig string) (variant, error) {
	quote := p.text[0]
	var b strings.Builder
	for i := 1; i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == quote:
			p.text = p.text[i+1:]
			switch sig {
			case "", "s":
				return variant{value: dbus.String(b.String())}, nil
			case "o":
				return variant{value: dbus.ObjectPath(b.String())}, nil
			}
			return variant{}, fmt.Errorf("a string where the type is %.20q", sig)
		case c == '\\' && i+1 < len(p.text):
			i++
			escaped := p.text[i]
			if at := strings.IndexByte("nt", escaped); at >= 0 {
				escaped = "\n\t"[at]
			}
			b.WriteByte(escaped)
		case c == 0:
			return variant{}, fmt.Errorf("a string with a zero byte")
		default:
			b.WriteByte(c)
		}
	}
	return variant{}, fmt.Errorf("a string is not closed")
}

func (p *variantParser) array(sig string, depth int) (variant, error) {
	elem, ok := strings.CutPrefix(sig, "a")
	if sig != "" && !ok {
		return variant{}, fmt.Errorf("an array where the type is %.20q", sig)
	}
	items, err := p.items("[", "]", func(int) string { return elem }, func(v variant) { elem = v.value.Signature() }, depth)
	if err != nil {
		return variant{}, err
	}
	if elem == "" {
		return variant{}, fmt.Errorf("an empty array needs its type, such as @as []")
	}
	return variant{value: dbus.Array(elem, items...)}, nil
}

func (p *variantParser) structure(sig string, depth int) (variant, error) {
	var types []string
	if sig != "" {
		var err error
		if types, err = dbus.FieldTypes(sig); err != nil {
			return variant{}, err
		}
	}
	items, err := p.items("(", ")", func(i int) string {
		if i < len(types) {
			return types[i]
		}
		return ""
	}, func(variant) {}, depth)
	if err == nil && (len(items) == 0 || types != nil && len(types) != len(items)) {
		err = fmt.Errorf("a structure of %d values where the type is %.40q", len(items), sig)
	}
	if err != nil {
		return variant{}, err
	}
	return variant{value: dbus.Struct(items...)}, nil
}

// items reads values between brackets.
func (p *variantParser) items(begin, end string, kind func(int) string, seen func(variant), depth int) ([]dbus.Value, error) {
	var items []dbus.Value
	p.eat(begin)
	for !p.eat(end) {
		if len(items) > 0 && !p.eat(",") {
			return nil, fmt.Errorf("%q or a comma is missing", end)
		}
		if len(items) > 0 && p.eat(end) { // (1,) has one
			return items, nil
		}
		v, err := p.value(kind(len(items)), depth+1)
		if err != nil {
			return nil, err
		}
		seen(v)
		items = append(items, v.value)
	}
	return items, nil
}
