package cri

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/pod"
)

var eventTypes = map[pod.EventType]runtimeapi.ContainerEventType{
	pod.EventCreated: runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT,
	pod.EventStarted: runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT,
	pod.EventStopped: runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT,
	pod.EventDeleted: runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT,
}

// GetContainerEvents sends events until the client or the daemon goes. A client
// that falls far behind is told so: it lists again and subscribes anew.
//
// It begins with the last change of each container that is older than the daemon,
// with the time at which that happened: a client that comes back after a restart has
// missed nothing, and sees from the time what it knew already.
func (s *runtimeService) GetContainerEvents(_ *runtimeapi.GetEventsRequest, to grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	events, cancel := s.Pods.Subscribe()
	defer cancel()
	// The kubelet takes the headers as the sign that it has missed nothing since.
	if err := to.SendHeader(nil); err != nil {
		return err
	}
	for _, e := range s.Pods.Recovered() { // after subscribing: better twice than not at all
		if err := sendEvent(to, &e); err != nil {
			return err
		}
	}
	for {
		select {
		case <-to.Context().Done():
			return asStatus(to.Context().Err())
		case <-s.done:
			return status.Error(codes.Unavailable, "straked is stopping")
		case e, ok := <-events:
			if !ok {
				return status.Error(codes.ResourceExhausted, "events: the client has fallen behind; list and subscribe again")
			}
			if err := sendEvent(to, e); err != nil {
				return err
			}
		}
	}
}

func sendEvent(to grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse], e *pod.Event) error {
	t, known := eventTypes[e.Type]
	if !known {
		return nil // not one of CRI's
	}
	return to.Send(eventOf(e, t))
}

func eventOf(e *pod.Event, t runtimeapi.ContainerEventType) *runtimeapi.ContainerEventResponse {
	out := &runtimeapi.ContainerEventResponse{
		ContainerId:        e.ContainerID,
		ContainerEventType: t,
		CreatedAt:          nanos(e.Time),
		PodSandboxStatus:   podStatus(e.Pod),
	}
	for _, c := range e.Containers {
		out.ContainersStatuses = append(out.ContainersStatuses, containerStatus(c))
	}
	return out
}
