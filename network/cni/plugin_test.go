package cni

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-containers/strake/internal/testutil"
)

// failpoint is a CNI plugin that this test binary turns into when it is run by
// that name. It logs each call and does what its configuration says.
const failpoint = "failpoint"

// failpointConf is the plugin's part of a conflist; a verb's key says what to do.
type failpointConf struct {
	Log  string            `json:"log"`
	Do   map[string]string `json:"do"`
	IPs  []string          `json:"ips"`
	Prev json.RawMessage   `json:"prevResult"`
}

// call is a line of the log.
type call struct {
	Verb, ID, NetNS, IfName, Args string
	Prev                          bool
	Pid                           int // also of its process group
	Stdin                         json.RawMessage
}

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == failpoint {
		os.Exit(pluginMain())
	}
	if dir := os.Getenv(crashEnv); dir != "" {
		crashingProcess(dir)
	}
	os.Exit(testutil.InOwnNetwork(m))
}

func pluginMain() int {
	var c failpointConf
	var stdin json.RawMessage
	if json.NewDecoder(os.Stdin).Decode(&stdin) != nil || json.Unmarshal(stdin, &c) != nil {
		fmt.Println(`{"code":6,"msg":"bad configuration"}`)
		return 1
	}
	verb := os.Getenv("CNI_COMMAND")
	line, _ := json.Marshal(call{
		verb, os.Getenv("CNI_CONTAINERID"), os.Getenv("CNI_NETNS"), os.Getenv("CNI_IFNAME"), os.Getenv("CNI_ARGS"),
		c.Prev != nil, os.Getpid(), stdin,
	})
	log, err := os.OpenFile(c.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, _ = log.Write(append(line, '\n'))
	_ = log.Close()

	switch c.Do[verb] {
	case "fail":
		fmt.Println(`{"cniVersion":"1.0.0","code":100,"msg":"no luck today","details":"try tomorrow"}`)
		return 1
	case "exit":
		fmt.Fprintln(os.Stderr, "segmentation fault, or so")
		return 3
	case "hang": // and a child that holds the output open
		child := exec.Command("sleep", "1000")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		_ = child.Run()
	case "gate": // until somebody opens the FIFO
		gate, err := os.Open(c.Log + ".gate")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		_ = gate.Close()
		log, err := os.OpenFile(c.Log, os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		_, _ = fmt.Fprintf(log, "{\"Verb\": \"end of %s\"}\n", verb)
		_ = log.Close()
	case "bad json":
		fmt.Println(`{"ips": [`)
		return 0
	case "no address":
		fmt.Println(`{"cniVersion":"1.0.0"}`)
		return 0
	case "bad index":
		fmt.Println(`{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24","interface":7}]}`)
		return 0
	case "flood":
		fmt.Println(strings.Repeat("x", 2*maxOutput))
		return 0
	}
	if verb == "ADD" && c.Prev != nil {
		_, _ = os.Stdout.Write(c.Prev)
		return 0
	}
	if verb == "ADD" {
		fmt.Printf(`{"cniVersion":"1.0.0",
			"interfaces":[{"name":"host0"},{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":%q}],
			"ips":[{"address":"10.1.2.1/24","interface":0},{"address":"10.1.2.3/24","interface":1},{"address":"fd00::3/64","interface":1}],
			"dns":{"nameservers":["10.1.2.1"]}}`, os.Getenv("CNI_NETNS"))
	}
	return 0
}
