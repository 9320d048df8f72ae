package spec

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// fill gives every member that is reachable from v a value.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
		fill(v.Index(1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		value := reflect.New(v.Type().Elem()).Elem()
		fill(value)
		v.SetMapIndex(reflect.ValueOf("a.b"), value)
	case reflect.String:
		v.SetString("t\u00e9xt <&> \"quoted\" \n")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(-7)
	case reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	}
}

// The shape knows every member of a Linux config.
func TestShapeIsComplete(t *testing.T) {
	var full specs.Spec
	fill(reflect.ValueOf(&full).Elem())
	full.Solaris, full.Windows, full.VM, full.ZOS, full.FreeBSD = nil, nil, nil, nil, nil // refused anyway
	data, err := json.MarshalIndent(&full, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	got, ok := readSpec(data)
	if !ok || !reflect.DeepEqual(got, &full) {
		t.Errorf("ok is %v, have\n%+v\nwant\n%+v", ok, got, &full)
	}
	data, err = json.Marshal(full.Process)
	if err != nil {
		t.Fatal(err)
	}
	p, ok := readProcess(data)
	if !ok || !reflect.DeepEqual(p, full.Process) {
		t.Errorf("ok is %v, have\n%+v\nwant\n%+v", ok, p, full.Process)
	}
}

// What is read without encoding/json reads the same with it.
func FuzzShape(f *testing.F) {
	for _, s := range []string{
		``, `{`, `null`, `{}`, `{"process":null}`, ` { "hostname" : "x" } `, `{"hostname":"\u0061\ud800"}`, `{"hostname":"é"}`, "{\"hostname\":\"\xff\"}",
		`{"Hostname":"x"}`, `{"hostname":"a","hostname":null}`, `{"process":{"user":{"uid":01}}}`, `{"process":{"user":{"uid":-0}}}`,
		`{"process":{"user":{"uid":4294967296}}}`, `{"process":{"oomScoreAdj":1e2}}`, `{"process":{"oomScoreAdj":-5}}`,
		`{"mounts":[{"destination":"/a","options":["ro",null]},null]}`, `{"mounts":[],"mounts":[{}]}`, `{"mounts":[{}],"mounts":null}`,
		`{"annotations":{"a":"b","c":null,"a":"d"}}`, `{"annotations":{},"annotations":{"e":"f"}}`, `{"process":{},"process":{"cwd":"/"}}`,
		`{"hooks":{"poststop":[{"path":"/x","timeout":3}]}}`, `{"hooks":{"poststop":[}}`, `{"hooks":"\"}`, `{"hooks":,}`, `{"linux":{"timeOffsets":{"a":{"secs":1}}}}`,
		`{"linux":{"seccomp":{"syscalls":[{"names":["a"],"args":[{"index":1,"value":18446744073709551615,"op":"x"}]}]}}}`,
		`{"linux":{"devices":[{"fileMode":438,"major":-1}],"resources":{"unified":{"a":"b"},"devices":[{"allow":false}]}}} x`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, ok := readSpec(data)
		if !ok {
			return
		}
		want := new(specs.Spec)
		if err := json.Unmarshal(data, want); err != nil {
			t.Fatalf("was read, but encoding/json says: %v", err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("have\n%+v\nwant\n%+v", got, want)
		}
	})
}
