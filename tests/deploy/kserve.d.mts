// What deploy/kubernetes/kserve.yaml may hold: the part of KServe's API (v1alpha1 ServingRuntime, v1beta1
// InferenceService) that it uses. objects.mjs compares.
import { IContainer } from 'kubernetes-models/v1/Container';
import { IObjectMeta } from '@kubernetes-models/apimachinery/apis/meta/v1/ObjectMeta';

type Protocol = 'v1' | 'v2' | 'grpc-v1' | 'grpc-v2';

export interface IServingRuntime {
  apiVersion: 'serving.kserve.io/v1alpha1';
  kind: 'ServingRuntime';
  metadata: IObjectMeta;
  spec: {
    annotations?: Record<string, string>;
    labels?: Record<string, string>;
    supportedModelFormats: { name: string; version?: string; autoSelect?: boolean; priority?: number }[];
    protocolVersions: Protocol[];
    multiModel?: boolean;
    containers: IContainer[];
  };
}

export interface IInferenceService {
  apiVersion: 'serving.kserve.io/v1beta1';
  kind: 'InferenceService';
  metadata: IObjectMeta;
  spec: {
    predictor: {
      minReplicas?: number;
      maxReplicas?: number;
      scaleTarget?: number;
      scaleMetric?: 'cpu' | 'memory' | 'concurrency' | 'rps';
      timeout?: number;
      serviceAccountName?: string;
      model: {
        modelFormat: { name: string; version?: string };
        runtime?: string;
        protocolVersion?: Protocol;
        storageUri: string;
        args?: string[];
        resources?: IContainer['resources'];
      };
    };
  };
}
