// Package pod is the heart: it owns pods and containers and knows the one order
// in which things are made and unmade. Every front (CRI, our own service) only
// translates to its verbs.
//
// # How to read it
//
// A verb is one function of numbered steps: runpod.go, stoppod.go, removepod.go,
// create.go, start.go, stop.go, remove.go. Each step has a name, which errors and
// Info carry, and pushes its undo (internal/cleanup). What goes into a container
// is decided by pod/bundle, which is pure; how it is written down is pod/store;
// the process side is behind a monitor (shim/client), the network behind
// network.Network, images behind Images. A verb of a monitor, a plugin or the
// disk is I/O.
//
// # Retries
//
// A verb runs on a goroutine of its own, detached from the caller's context
// (work.go). The same request made again, by a client whose patience ended, joins
// it; when it has finished, the same request gets the finished object. A pod is
// known by name, namespace, uid and attempt, a container by name and attempt
// within its pod. What a client asked for and never came back to is removed after
// abandonedAfter.
//
// # Crashes
//
// Everything is recovered from pod.json, container.json, the monitors and the
// files they leave (recover.go). A directory without a finished record is undone
// by id, with everything that could have been made under that id (reclaim.go). What
// that needs of network plugins goes on while others are served; the pod's name waits
// for it. So does the network's own collection of what belongs to nobody, and new pods'
// networks wait for that.
//
// # Locks
//
// Manager.mu guards the indexes of pods and containers, sandbox.mu everything
// about one pod and its containers, tracker.mu the list of verbs under way, crewSet.mu
// the monitors, hub.mu the subscribers. Manager.mu and a sandbox.mu are never held
// together, nor those of two pods; the others are leaves, tracker.mu under either. None
// is held across I/O, nor while something is waited for: locks_test.go reads all of this
// from the source. Records are written under sandbox.saving or container.saving, which guard
// nothing else, are taken before sandbox.mu, and delay nobody but writers of the
// same record. So a stuck monitor, plugin or disk holds up the verbs on its own
// pod and nothing else; status and lists always answer.
//
// Verbs exclude each other by what they mark under sandbox.mu: "stopping" lets no
// new container in, "removing" no verb on a container, and whoever marks waits for
// the verbs already under way.
package pod
