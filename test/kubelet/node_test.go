package kubelet

import (
	"encoding/json"
	"testing"

	"github.com/strake-containers/strake/test/kubelet/apiserver"
)

// startAPI starts an API server with what every cluster has.
func startAPI(t *testing.T) *apiserver.Server {
	t.Helper()
	api, err := apiserver.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, manifest := range []string{
		`{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: kube-root-ca.crt}, data: {ca.crt: a certificate}}`,
	} {
		if err := api.Apply(manifest); err != nil {
			t.Fatal(err)
		}
	}
	return api
}

// nodeStatus is the part of a v1.Node that the tests look at.
type nodeStatus struct {
	Status struct {
		Conditions      []condition
		Images          []struct{ Names []string }
		NodeInfo        struct{ ContainerRuntimeVersion string }
		RuntimeHandlers []struct {
			Name     string
			Features struct{ RecursiveReadOnlyMounts, UserNamespaces bool }
		}
		Features struct{ SupplementalGroupsPolicy bool }
	}
}

// condition is a v1.NodeCondition or a v1.PodCondition.
type condition struct{ Type, Status, Reason, Message string }

func (n *nodeStatus) condition(kind string) condition { return find(n.Status.Conditions, kind) }

func find(conditions []condition, kind string) condition {
	for _, c := range conditions {
		if c.Type == kind {
			return c
		}
	}
	return condition{}
}

// awaitNode waits for the node to be as done says.
func (k *kubelet) awaitNode(t *testing.T, what string, done func(*nodeStatus) bool) {
	t.Helper()
	var n nodeStatus
	k.until(t, what, func() bool {
		n = nodeStatus{}
		found, err := k.api.Get("nodes", "", nodeName, &n)
		if err != nil {
			t.Fatal(err)
		}
		return found && done(&n)
	}, func() any { return n })
}

// wasNode says whether the node has ever been so.
func (k *kubelet) wasNode(is func(*nodeStatus) bool) bool {
	return k.api.Was("nodes", "", nodeName, func(raw []byte) bool {
		var n nodeStatus
		return json.Unmarshal(raw, &n) == nil && is(&n)
	})
}
