// Command suite is the upstream conformance suite with one difference to its own program: each request is copied before
// it is sent.
//
// One spec of csi-test v5.6.0 (a snapshot with accessibility requirements) compares a topology that it has sent with one
// that it received by reflect.DeepEqual. Sending leaves the encoded size in a private field, so any driver that
// reports the topology of a snapshot, as it should, fails there. On a copy the size does not matter.
package main

import (
	"context"
	"flag"
	"os"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

type outcome struct{ status int }

func (o *outcome) Fail() {
	o.status = 1
}

func main() {
	config := sanity.NewTestConfig()
	flag.StringVar(&config.Address, "csi.endpoint", "", "the node's socket")
	flag.StringVar(&config.ControllerAddress, "csi.controllerendpoint", "", "the controller's socket")
	flag.StringVar(&config.TargetPath, "csi.mountdir", config.TargetPath, "made for publishing")
	flag.StringVar(&config.StagingPath, "csi.stagingdir", config.StagingPath, "made for staging")
	flag.StringVar(&config.TestVolumeAccessType, "csi.testvolumeaccesstype", config.TestVolumeAccessType, "mount or block")
	flag.Int64Var(&config.TestVolumeSize, "csi.testvolumesize", config.TestVolumeSize, "bytes")
	flag.Int64Var(&config.TestVolumeExpandSize, "csi.testvolumeexpandsize", config.TestVolumeExpandSize, "bytes")
	flag.StringVar(&config.TestVolumeParametersFile, "csi.testvolumeparameters", "", "YAML")
	flag.StringVar(&config.SecretsFile, "csi.secrets", "", "YAML")
	flag.BoolVar(&config.TestNodeVolumeAttachLimit, "csi.testnodevolumeattachlimit", false, "test the limit of volumes")
	flag.Parse()
	config.DialOptions = append(config.DialOptions, grpc.WithUnaryInterceptor(sendCopy))
	config.ControllerDialOptions = append(config.ControllerDialOptions, grpc.WithUnaryInterceptor(sendCopy))

	result := outcome{}
	sanity.Test(&result, config)
	os.Exit(result.status)
}

func sendCopy(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	if message, ok := request.(proto.Message); ok {
		request = proto.Clone(message)
	}
	return invoke(ctx, method, request, reply, conn, options...)
}
