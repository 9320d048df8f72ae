package spec

import (
	"errors"
	"strings"
	"testing"
)

func TestDecodeErrors(t *testing.T) {
	for _, test := range []struct{ config, says string }{
		{`{"ociVersion":"1.0.0","hostname":5}`, "hostname: invalid config: this is number, not a string"},
		{`{"linux":{"resources":{"memory":{"limit":"x"}}}}`, "linux.resources.memory.limit: invalid config: this is string, not a whole number"},
		{`{"process":{"user":{"uid":-1}}}`, "process.user.uid: invalid config: this is number -1, not a whole number that fits, from 0"},
		{`{"process":{"args":"sh"}}`, "process.args: invalid config: this is string, not an array"},
		{`{"root":[]}`, "root: invalid config: this is array, not an object"},
		{`{"process":{"terminal":"yes"}}`, "process.terminal: invalid config: this is string, not true or false"},
		{`{"ociVersion":"1.0.0",}`, "config.json: invalid config: no JSON at byte 23"},
		{``, "config.json: invalid config: no JSON at byte 0"},
		{`[]`, "config.json: invalid config"},
	} {
		_, err := Decode([]byte(test.config))
		if !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), test.says) {
			t.Errorf("%s: %v; want %q", test.config, err, test.says)
		}
	}
}
