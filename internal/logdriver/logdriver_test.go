package logdriver

import (
	"maps"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	type options = map[string]string
	for _, test := range []struct {
		driver  string
		options options
		want    Config
		fails   string
	}{
		{"none", nil, Config{Driver: None, MaxFiles: 1}, ""},
		{"json-file", options{"max-size": "10m", "max-file": "3"}, Config{Driver: JSONFile, MaxSize: 10 << 20, MaxFiles: 3}, ""},
		{"k8s-file", options{"max-size": "1GB"}, Config{Driver: K8sFile, MaxSize: 1 << 30, MaxFiles: 1}, ""},
		{"k8s-file", options{"max-size": "200000"}, Config{Driver: K8sFile, MaxSize: 200000, MaxFiles: 1}, ""},
		{"journald", options{"tag": "web"}, Config{Driver: Journald, MaxFiles: 1, Tag: "web"}, ""},
		{"syslog", nil, Config{}, `log driver "syslog": choose k8s-file, json-file, journald, none`},
		{"json-file", options{"max-size": "much"}, Config{}, "log option max-size=much: write a size such as 10m"},
		{"json-file", options{"max-size": "99999999999g"}, Config{}, "write a size"},
		{"json-file", options{"max-size": "-1"}, Config{}, "write a size"},
		{"json-file", options{"max-size": ""}, Config{}, "write a size"},
		{"json-file", options{"max-size": "1k"}, Config{}, "less than 128k"},
		{"json-file", options{"max-size": "1m", "max-file": "0"}, Config{}, "log option max-file=0: write a number from 1 to 1000"},
		{"json-file", options{"max-file": "2"}, Config{}, "without max-size"},
		{"json-file", options{"compress": "true"}, Config{}, "log option compress: json-file has max-size and max-file"},
		{"journald", options{"labels": "a"}, Config{}, "log option labels: journald has tag"},
		{"journald", options{"tag": "{{.Name}}"}, Config{}, "templates are not supported"},
		{"journald", options{"tag": strings.Repeat("x", 1025)}, Config{}, "more than 1024 bytes"},
		{"none", options{"max-size": "10m"}, Config{}, "log option max-size: none has none"},
	} {
		c, err := Parse(test.driver, test.options)
		if (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
			t.Errorf("%s %v: error %v, want %q", test.driver, test.options, err, test.fails)
		}
		if err == nil && c != test.want {
			t.Errorf("%s %v: %+v, want %+v", test.driver, test.options, c, test.want)
		}
	}
}

func TestURIs(t *testing.T) {
	for _, c := range []Config{
		{Driver: JSONFile, MaxSize: 1 << 20, MaxFiles: 7},
		{Driver: K8sFile, MaxFiles: 1},
	} {
		for _, path := range []string{"/var/log/a.log", "/a b?c=d#e%41/ü"} {
			got, at, err := ParseFileURI(c.FileURI(path))
			if err != nil || got != c || at != path {
				t.Errorf("%+v %s: %s: %+v, %q, %v", c, path, c.FileURI(path), got, at, err)
			}
		}
	}
	fields := map[string]string{"CONTAINER_NAME": "a&b=c\n", "CONTAINER_ID": "12"}
	socket, got, err := ParseJournalURI(JournalURI("/run/s", fields))
	if err != nil || socket != "/run/s" || !maps.Equal(got, fields) {
		t.Errorf("%s, %v, %v", socket, got, err)
	}
	for _, uri := range []string{"json-file:", "json-file:///a?max-file=x", "none:///a", "journald:///a", "file:///a", "json-file:///%zz"} {
		if c, path, err := ParseFileURI(uri); err == nil {
			t.Errorf("%s: %+v, %s", uri, c, path)
		}
	}
	for _, uri := range []string{"journald:", "journald:///a?_PID=1", "journald:///a?message=1", "journald:///a?=1", "journald:///a?A%0AB=1"} {
		if socket, fields, err := ParseJournalURI(uri); err == nil {
			t.Errorf("%s: %s, %v", uri, socket, fields)
		}
	}
}
