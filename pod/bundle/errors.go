package bundle

import (
	"errors"
	"fmt"
	"strings"
)

// Classes of errors; every error of this package is of one of them and names
// the field.
var (
	ErrInvalid     = errors.New("invalid request")
	ErrUnsupported = errors.New("not supported")
)

// fieldError says what is wrong with a field of the request.
type fieldError struct {
	class error
	field string
	text  string
}

func (e *fieldError) Error() string { return e.field + ": " + e.text }
func (e *fieldError) Unwrap() error { return e.class }

func invalid(field, format string, args ...any) error {
	return &fieldError{ErrInvalid, field, fmt.Sprintf(format, args...)}
}

func unsupported(field, format string, args ...any) error {
	return &fieldError{ErrUnsupported, field, "not supported: " + fmt.Sprintf(format, args...)}
}

// index names an element of a list field.
func index(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }

// hasControl reports whether s has a character that could end a line or a C
// string in a file or an environment made from it.
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}
