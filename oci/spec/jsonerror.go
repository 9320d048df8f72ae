package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// decodeError says what is wrong with the JSON of file by field and JSON type,
// where encoding/json speaks of Go's.
func decodeError(file string, err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field != "" {
		return fmt.Errorf("%s: %w: this is %s, not %s", wrong.Field, ErrInvalid, wrong.Value, jsonType(wrong.Type.Kind().String()))
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("%s: %w: no JSON at byte %d: %w", file, ErrInvalid, syntax.Offset, err)
	}
	return fmt.Errorf("%s: %w: %w", file, ErrInvalid, err)
}

// jsonType names what a Go kind is decoded from.
func jsonType(kind string) string {
	switch {
	case strings.HasPrefix(kind, "uint"):
		return "a whole number that fits, from 0"
	case strings.HasPrefix(kind, "int"):
		return "a whole number that fits"
	case kind == "bool":
		return "true or false"
	case kind == "slice":
		return "an array"
	case kind == "map", kind == "struct":
		return "an object"
	}
	return "a " + kind
}
