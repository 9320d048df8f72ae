package container

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/strake-containers/strake/internal/leanjson"
)

// record is state.json. Every verb reads it and there is little else to most
// verbs, so encode and decodeRecord do without reflection.
type record struct {
	Version     int               `json:"version"`
	ID          string            `json:"id"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Cgroup      string            `json:"cgroup"`
	CgroupTop   string            `json:"cgroupTop,omitempty"` // as in cgroup.Saved, and so on
	CgroupUnit  string            `json:"cgroupUnit,omitempty"`
	CgroupUser  bool              `json:"cgroupUser,omitempty"`
	Created     time.Time         `json:"created"`
	Pid         int               `json:"pid"` // 0: being created
	StartTime   uint64            `json:"startTime"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Hooks       bool              `json:"hooks,omitempty"` // the config has some
	// SharedPID: init is not the first process of a PID namespace, and its end
	// not that of the others.
	SharedPID bool `json:"sharedPid,omitempty"`
	Restored  bool `json:"restored,omitempty"` // by Restore: init never executed anything
	Notify    bool `json:"notify,omitempty"`   // it was created with Notify
	// A mount that outlives the container, where it has no mount namespace of its
	// own, and the namespace that it is in: its path, if any, and its inode.
	Stays     string `json:"stays,omitempty"`
	StaysIn   string `json:"staysIn,omitempty"`
	StaysInID uint64 `json:"staysInID,omitempty"`
	StaysOn   uint64 `json:"staysOn,omitempty"` // id of the mount that it covers
	// The directories of resctrl that its processes join, and those made for it.
	Resctrl     []string `json:"resctrl,omitempty"`
	ResctrlMade []string `json:"resctrlMade,omitempty"`
}

// sameInit says whether both are of one container, by its init.
func (r *record) sameInit(other *record) bool {
	return r.Pid == other.Pid && r.StartTime == other.StartTime
}

func (r *record) encode() []byte {
	text := func(b []byte, name, value string) []byte {
		b = append(b, `,"`+name+`":`...)
		return leanjson.AppendText(b, value)
	}
	b := make([]byte, 0, 1024)
	b = append(b, `{"version":`...)
	b = strconv.AppendInt(b, int64(r.Version), 10)
	b = text(b, "id", r.ID)
	b = text(b, "bundle", r.Bundle)
	b = text(b, "rootfs", r.Rootfs)
	b = text(b, "cgroup", r.Cgroup)
	if r.CgroupTop != "" {
		b = text(b, "cgroupTop", r.CgroupTop)
	}
	if r.CgroupUnit != "" {
		b = text(b, "cgroupUnit", r.CgroupUnit)
	}
	if r.CgroupUser {
		b = append(b, `,"cgroupUser":true`...)
	}
	b = text(b, "created", r.Created.Format(time.RFC3339Nano))
	b = append(b, `,"pid":`...)
	b = strconv.AppendInt(b, int64(r.Pid), 10)
	b = append(b, `,"startTime":`...)
	b = strconv.AppendUint(b, r.StartTime, 10)
	if len(r.Annotations) > 0 {
		b = append(b, `,"annotations":{`...)
		names := make([]string, 0, len(r.Annotations))
		for name := range r.Annotations {
			names = append(names, name)
		}
		slices.Sort(names)
		for i, name := range names {
			if i > 0 {
				b = append(b, ',')
			}
			b = leanjson.AppendText(b, name)
			b = append(b, ':')
			b = leanjson.AppendText(b, r.Annotations[name])
		}
		b = append(b, '}')
	}
	if r.Hooks {
		b = append(b, `,"hooks":true`...)
	}
	if r.Restored {
		b = append(b, `,"restored":true`...)
	}
	if r.Notify {
		b = append(b, `,"notify":true`...)
	}
	if r.Stays != "" {
		b = text(b, "stays", r.Stays)
		b = text(b, "staysIn", r.StaysIn)
		b = append(b, `,"staysInID":`...)
		b = strconv.AppendUint(b, r.StaysInID, 10)
		b = append(b, `,"staysOn":`...)
		b = strconv.AppendUint(b, r.StaysOn, 10)
	}
	if r.SharedPID {
		b = append(b, `,"sharedPid":true`...)
	}
	if len(r.Resctrl) > 0 {
		b = texts(b, "resctrl", r.Resctrl)
	}
	if len(r.ResctrlMade) > 0 {
		b = texts(b, "resctrlMade", r.ResctrlMade)
	}
	return append(b, '}')
}

func texts(b []byte, name string, list []string) []byte {
	b = append(b, `,"`+name+`":[`...)
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = leanjson.AppendText(b, s)
	}
	return append(b, ']')
}

func decodeRecord(data []byte) (*record, error) {
	in := leanjson.NewReader(data)
	var r record
	var created string
	in.Object(func(name string) bool {
		switch name {
		case "version":
			leanjson.Int(in, &r.Version)
		case "id":
			leanjson.Text(in, &r.ID)
		case "bundle":
			leanjson.Text(in, &r.Bundle)
		case "rootfs":
			leanjson.Text(in, &r.Rootfs)
		case "cgroup":
			leanjson.Text(in, &r.Cgroup)
		case "cgroupTop":
			leanjson.Text(in, &r.CgroupTop)
		case "cgroupUnit":
			leanjson.Text(in, &r.CgroupUnit)
		case "cgroupUser":
			leanjson.Bool(in, &r.CgroupUser)
		case "created":
			leanjson.Text(in, &created)
		case "pid":
			leanjson.Int(in, &r.Pid)
		case "startTime":
			leanjson.Uint(in, &r.StartTime)
		case "annotations":
			leanjson.TextMap(in, &r.Annotations)
		case "hooks":
			leanjson.Bool(in, &r.Hooks)
		case "sharedPid":
			leanjson.Bool(in, &r.SharedPID)
		case "restored":
			leanjson.Bool(in, &r.Restored)
		case "notify":
			leanjson.Bool(in, &r.Notify)
		case "stays":
			leanjson.Text(in, &r.Stays)
		case "staysIn":
			leanjson.Text(in, &r.StaysIn)
		case "staysInID":
			leanjson.Uint(in, &r.StaysInID)
		case "resctrl":
			leanjson.Texts(in, &r.Resctrl)
		case "resctrlMade":
			leanjson.Texts(in, &r.ResctrlMade)
		case "staysOn":
			leanjson.Uint(in, &r.StaysOn)
		default:
			return false
		}
		return true
	})
	t, err := time.Parse(time.RFC3339Nano, created)
	if err == nil && in.Done() {
		r.Created = t
		return &r, nil
	}
	r = record{}
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	return &r, nil
}
