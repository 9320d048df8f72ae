package container

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

func TestRecordIsJSON(t *testing.T) {
	for _, r := range []record{
		{},
		{Version: recordVersion, Created: time.Unix(1, 5).UTC(), Stays: "/r", StaysIn: "/proc/1/ns/mnt", StaysInID: 1 << 32, StaysOn: 5},
		{Version: recordVersion, Created: time.Unix(1, 5).UTC(), Resctrl: []string{"/sys/fs/resctrl/a", "/b\""}, ResctrlMade: []string{"/b\""}},
		{Version: recordVersion, ID: "a", Pid: 7, Created: time.Unix(1, 5).UTC()},
		{Version: recordVersion, ID: "b", Bundle: "/b\"ü", Rootfs: "/b/<r>", Cgroup: "/c\\", CgroupTop: "/c",
			Created: time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC), Pid: 1 << 22, StartTime: 1 << 63, Hooks: true, SharedPID: true, Restored: true, Notify: true,
			Annotations: map[string]string{"z\n": "{}", "a": "<&>", "\x7f": "\u2028"}},
	} {
		data := r.encode()
		var std record
		if err := json.Unmarshal(data, &std); err != nil || !reflect.DeepEqual(std, r) {
			t.Errorf("encoding/json reads %s as\n%+v (%v), want\n%+v", data, std, err, r)
		}
		got, err := decodeRecord(data)
		if err != nil || !reflect.DeepEqual(*got, r) {
			t.Errorf("%s is read as\n%+v (%v), want\n%+v", data, got, err, r)
		}
		data, err = json.MarshalIndent(r, "", " ")
		must(t, err)
		if got, err = decodeRecord(data); err != nil || !reflect.DeepEqual(*got, r) {
			t.Errorf("%s is read as\n%+v (%v), want\n%+v", data, got, err, r)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"x","created":"2026-01-02T03:04:05Z","annotations":{"a":null}}`))
	f.Add([]byte(`{"Version":1,"created":"2026-01-02 03:04:05Z"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decodeRecord(data)
		var want record
		if stdErr := json.Unmarshal(data, &want); (err == nil) != (stdErr == nil) {
			t.Fatalf("error is %v, encoding/json's %v", err, stdErr)
		}
		if err == nil && !reflect.DeepEqual(*got, want) {
			t.Errorf("have\n%+v\nwant\n%+v", *got, want)
		}
	})
}
