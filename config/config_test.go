package config

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// TestDefaultTOML uncomments every key of the default file: they are all there,
// and all as Default says.
func TestDefaultTOML(t *testing.T) {
	var on strings.Builder
	for line := range strings.Lines(string(DefaultTOML())) {
		if rest, ok := strings.CutPrefix(line, "# "); ok {
			key, _, isKey := strings.Cut(rest, " = ")
			if isKey && !strings.Contains(key, " ") || strings.HasPrefix(rest, "[") && strings.HasSuffix(rest, "]\n") {
				line = rest
			}
		}
		on.WriteString(line)
	}
	for what, text := range map[string]string{"as printed": string(DefaultTOML()), "uncommented": on.String()} {
		c, err := Parse(File{what, []byte(text)})
		if err != nil {
			t.Fatal(err)
		}
		if want := Default(); !reflect.DeepEqual(c, want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", what, c, want)
		}
	}
	for _, key := range []string{"root", "state", "address", "log_level", "log_format", "cgroup_driver", "default_runtime",
		"cni.conf_dir", "cni.bin_dirs", "cni.networks", "network.bridge", "network.subnets", "registry.config_path", "registry.registries_conf", "images.driver", "images.max_layer_bytes", "images.max_layer_entries", "images.max_layer_ratio", "images.max_layer_holes", "images.keep_layer_blobs", "images.verity", "images.signature_policy", "images.registries_d", "images.namespace_policies",
		"runtimes.strake.type", "runtimes.strake.path", "stream.address", "metrics.address", "tracing.endpoint", "tracing.protocol", "tracing.samples_per_million", "container_log.max_bytes", "container_log.driver", "container_log.options"} {
		if keyLines([]byte(on.String()))[key] == 0 {
			t.Errorf("default.toml does not show %s", key)
		}
	}
}

func TestParse(t *testing.T) {
	c, err := Parse(File{"f", []byte(`
root = "/srv/strake"
[runtimes.other]
type = "strake"
path = "/opt/monitor"
[cni]
bin_dirs = ["/one"]
`)})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Root = "/srv/strake"
	want.Runtimes["other"] = Runtime{Type: "strake", Path: "/opt/monitor"}
	want.CNI.BinDirs = []string{"/one"}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

// A later file goes over an earlier one, key by key.
func TestDropIns(t *testing.T) {
	main := File{"f", []byte("root = \"/one\"\nhooks_dirs = [\"/a\", \"/b\"]\n[cni]\nconf_dir = \"/c\"\n[runtimes.crun]\ntype = \"oci\"\npath = \"/usr/bin/crun\"\n")}
	c, err := Parse(main,
		File{"10", []byte("root = \"/two\"\nhooks_dirs = [\"/z\"]\n[runtimes.crun]\nargs = [\"--debug\"]\n")},
		File{"20", []byte("log_level = \"debug\"\n[runtimes.runc]\ntype = \"oci\"\npath = \"/usr/bin/runc\"\n")})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Root, want.LogLevel, want.HooksDirs, want.CNI.ConfDir = "/two", "debug", []string{"/z"}, "/c"
	want.Runtimes["crun"] = Runtime{Type: "oci", Path: "/usr/bin/crun", Args: []string{"--debug"}}
	want.Runtimes["runc"] = Runtime{Type: "oci", Path: "/usr/bin/runc"}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	text, err := c.TOML()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Parse(File{"again", text}); err != nil || !reflect.DeepEqual(again.Runtimes["crun"].Args, want.Runtimes["crun"].Args) || again.Root != "/two" {
		t.Errorf("%+v, %v of\n%s", again, err, text)
	}
	for _, c := range []struct{ drop, want string }{
		{"\nroot = \"two\"\n", `10:2: root: "two" is not a clean absolute path`},
		{"[cni]\nconfdir = 1\n", "10:2: cni.confdir: unknown key"},
		{"[runtimes.crun]\nsandboxer = \"shim\"\n", "10:2: runtimes.crun.sandboxer: only type shim has it"},
		{"[runtimes.crun]\ntype = \"strake\"\nargs = [\"x\"]\n", "10:3: runtimes.crun.args: only type oci has it"},
	} {
		if _, err := Parse(main, File{"10", []byte(c.drop)}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
	// What the drop-in does not say is the first file's fault.
	if _, err := Parse(File{"f", []byte("\nroot = \"x\"\n")}, File{"10", []byte("log_level = \"debug\"\n")}); err == nil || !strings.HasPrefix(err.Error(), "f:2: root") {
		t.Errorf("got %v", err)
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct {
		name, toml string
		want       []string // every one must be a line of the error, in order
	}{
		{"syntax", "root = \"/a\"\nstate = \n", []string{"f:2: "}},
		{"unknown key", "root = \"/a\"\n\n[cni]\nconfdir = \"/x\"\n", []string{"f:4: cni.confdir: unknown key"}},
		{"wrong type", "root = 5\n", []string{"f:1: root: this is integer, not a string in quotes"}},
		{"string for array", "[cni]\nbin_dirs = \"/x\"\n", []string{"f:2: cni.bin_dirs: this is string, not an array"}},
		{"log driver", "[container_log]\nmax_bytes = 5\ndriver = \"syslog\"\n", []string{
			"f:2: container_log.max_bytes: 5 is not 0, for no limit, or at least 131072",
			"f:3: container_log.driver: log driver \"syslog\": choose k8s-file, json-file, journald, none",
		}},
		{"log options", "[container_log]\ndriver = \"journald\"\noptions = {max-size = \"10m\"}\n", []string{
			"f:3: container_log.options: log option max-size: journald has tag",
		}},
		{"string for table", "cni = \"/x\"\n", []string{"f:1: cni: this is string, not a table"}},
		{"two unknown", "a = 1\n[b]\nc = 2\n", []string{"f:1: a: unknown key", "f:2: b: unknown key"}},
		{"wrong type", "root = 7\n", []string{"f:1: "}},
		{"relative", "state = \"run\"\n", []string{`f:1: state: "run" is not a clean absolute path`}},
		{"several", "log_level = \"loud\"\n[network]\nsubnets = [\"10.0.0.1/16\"]\n", []string{
			`f:1: log_level: "loud" is not one of debug, info, warn, error`,
			`f:3: network.subnets: "10.0.0.1/16" has bits set behind its length; did you mean 10.0.0.0/16?`}},
		{"two IPv4", "network.subnets = [\"10.0.0.0/24\", \"fd00::/64\", \"10.0.1.0/24\"]\n", []string{`f:1: network.subnets: "10.0.1.0/24" is the second`}},
		{"tiny subnet", "network = { subnets = [\"10.0.0.0/30\"] }\n", []string{`f:1: network.subnets: "10.0.0.0/30" has no room`}},
		{"no subnet", "[network]\nsubnets = [\"10.0.0.0\"]\n", []string{`f:2: network.subnets: "10.0.0.0" is not a subnet`}},
		{"cgroup driver", "cgroup_driver = \"runit\"\n", []string{`f:1: cgroup_driver: "runit" is not one of cgroupfs, systemd`}},
		{"oci without a path", "[runtimes.crun]\ntype = \"oci\"\n", []string{`f:1: runtimes.crun.path: is missing`}},
		{"oci with a sandboxer", "[runtimes.crun]\ntype = \"oci\"\npath = \"/usr/bin/crun\"\nsandboxer = \"shim\"\nruntime_type = \"x.y\"\n", []string{
			`f:5: runtimes.crun.runtime_type: only type shim has it`, `f:4: runtimes.crun.sandboxer: only type shim has it`}},
		{"shim without a program", "[runtimes.kata]\ntype = \"shim\"\n", []string{`f:1: runtimes.kata.path: is missing`}},
		{"shim with two", "[runtimes.kata]\ntype = \"shim\"\npath = \"/bin/kata\"\nruntime_type = \"io.containerd.kata.v2\"\n", []string{`f:4: runtimes.kata.runtime_type: path says which program`}},
		{"shim of a strange type", "[runtimes.kata]\ntype = \"shim\"\nruntime_type = \"kata\"\nsandboxer = \"vm\"\nargs = [\"-x\"]\n", []string{
			`f:3: runtimes.kata.runtime_type: "kata" is not like io.containerd.runsc.v1`, `f:4: runtimes.kata.sandboxer: "vm" is not one of podsandbox, shim`,
			`f:5: runtimes.kata.args: only type oci has it`}},
		{"shim's options", "[runtimes.kata]\ntype = \"shim\"\npath = \"/bin/kata\"\n[runtimes.kata.options]\nconfig_path = \"/x\"\nroot = \"/y\"\nz = \"1\"\n", []string{
			`f:7: runtimes.kata.options.z: unknown option`, `f:4: runtimes.kata.options: type_url, config_path, config_body are for one kind`}},
		{"no type", "\n[runtimes.kata]\n", []string{`f:2: runtimes.kata.type: "" is not one of strake, oci, shim`}},
		{"name", "[runtimes.\"Big Name\"]\ntype = \"strake\"\n", []string{`f:1: runtimes.Big Name: not a runtime name`}},
		{"option", "[runtimes.strake]\ntype = \"strake\"\n[runtimes.strake.options]\nx = \"1\"\n", []string{`f:4: runtimes.strake.options.x: unknown option`}},
		{"default runtime", "default_runtime = \"kata\"\n", []string{`f:1: default_runtime: there is no [runtimes.kata]`}},
		{"long socket", "address = \"/" + strings.Repeat("a", 120) + "\"\n", []string{`f:1: address: 121 bytes long`}},
		{"stream for anybody", "[stream]\naddress = \"0.0.0.0:9\"\n", []string{`f:2: stream.address: "0.0.0.0:9" is not one address`}},
		{"stream in the open", "[stream]\naddress = \"192.0.2.1:9\"\n", []string{`f:2: stream.address: "192.0.2.1:9" is not on loopback`}},
		{"half a pair", "[stream.tls]\ncert = \"/c\"\n", []string{`f:1: stream.tls.key: is missing`}},
		{"no certificate", "[stream.tls]\nclient_ca = \"/c\"\n", []string{`f:1: stream.tls.cert: is missing`}},
		{"calls from anybody", "[grpc]\ntcp_address = \"192.0.2.1:9\"\n[grpc.tls]\ncert = \"/c\"\nkey = \"/k\"\n", []string{`f:2: grpc.tcp_address: needs [grpc.tls] cert, key and client_ca`}},
		{"calls at no port", "[grpc]\ntcp_address = \"192.0.2.1\"\n[grpc.tls]\ncert = \"/c\"\nkey = \"/k\"\nclient_ca = \"/a\"\n", []string{`f:2: grpc.tcp_address: "192.0.2.1" is not IP:PORT`}},
		{"certificates for nothing", "[grpc.tls]\ncert = \"/c\"\nkey = \"/k\"\n", []string{`f:1: grpc.tls: there is no grpc.tcp_address`}},
		{"stream", "[stream]\naddress = \"localhost\"\n", []string{`f:2: stream.address: "localhost" is not IP:PORT`}},
		{"tracing", "[tracing]\nendpoint = \"127.0.0.1:4317\"\nprotocol = \"http\"\nsamples_per_million = 1000001\n", []string{
			`f:2: tracing.endpoint: "127.0.0.1:4317" is not like http://127.0.0.1:4317, or https`,
			`f:3: tracing.protocol: "http" is not one of grpc, http/protobuf`,
			`f:4: tracing.samples_per_million: 1000001 is not between 0 and 1000000`,
		}},
		{"tracing path", "[tracing]\nendpoint = \"http://127.0.0.1:4317/v1/traces\"\n", []string{
			`f:2: tracing.endpoint: "http://127.0.0.1:4317/v1/traces" has a path, which only protocol http/protobuf has`,
		}},
		{"metrics", "[metrics]\naddress = \":9090\"\n", []string{`f:2: metrics.address: ":9090" is not IP:PORT`}},
		{"bridge", "[network]\nbridge = \"a-name-that-is-too-long\"\n", []string{`f:2: network.bridge: `}},
		{"too large", strings.Repeat("#", MaxSize+1), []string{"f: larger than"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse(File{"f", []byte(c.toml)})
			if err == nil {
				t.Fatal("no error")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(c.want) {
				t.Fatalf("got %d errors, want %d:\n%v", len(lines), len(c.want), err)
			}
			for i, want := range c.want {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("got  %s\nwant %s…", lines[i], want)
				}
			}
		})
	}
}

func TestServersWithTLS(t *testing.T) {
	c, err := Parse(File{"f", []byte("[stream]\naddress = \"192.0.2.1:9\"\n[stream.tls]\ncert = \"/c\"\nkey = \"/k\"\n" +
		"[grpc]\ntcp_address = \"0.0.0.0:9\"\n[grpc.tls]\ncert = \"/c\"\nkey = \"/k\"\nclient_ca = \"/a\"\n")})
	if err != nil || c.Stream.TLS.Key != "/k" || c.GRPC.TLS.ClientCA != "/a" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestValidateFlags(t *testing.T) {
	c := Default()
	c.LogLevel = "loud"
	err := c.Validate()
	var e *Error
	if !errors.As(err, &e) || e.Key != "log_level" || e.Line != 0 {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(defaultTOML)
	f.Add([]byte("[runtimes]\na={type='strake',options={b='c'}}"))
	f.Add([]byte("[[cni]]\nx=[{a=1},{b=2}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(File{"f", data})
		if err == nil && c.Validate() != nil {
			t.Errorf("parsed, but not valid: %v", c.Validate())
		}
		keyLines(data) // never panics
	})
}
