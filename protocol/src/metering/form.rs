//! Which form an endpoint answers in.
//!
//! Invariant: an endpoint without a form is free.

use crate::provider::endpoint::Endpoint;
use crate::usage::Form;

/// The form of an endpoint's answers; none for one that costs nothing.
pub const fn form_of(endpoint: Endpoint) -> Option<Form> {
    match endpoint {
        Endpoint::OpenAiChat
        | Endpoint::OpenAiCompletions
        | Endpoint::AzureDeploymentChat
        | Endpoint::AzureChat
        | Endpoint::AzureDeploymentCompletions
        | Endpoint::AzureCompletions => Some(Form::Completions),
        Endpoint::DeepSeekChat | Endpoint::DeepSeekBetaChat | Endpoint::DeepSeekBetaCompletions => {
            Some(Form::DeepSeekCompletions)
        }
        Endpoint::OpenAiResponses | Endpoint::AzurePreviewResponses | Endpoint::AzureResponses => Some(Form::Responses),
        Endpoint::OpenAiEmbeddings | Endpoint::AzureDeploymentEmbeddings | Endpoint::AzureEmbeddings => {
            Some(Form::Embeddings)
        }
        Endpoint::OpenAiImages
        | Endpoint::OpenAiImageEdits
        | Endpoint::AzureDeploymentImages
        | Endpoint::AzureDeploymentImageEdits
        | Endpoint::AzureImages
        | Endpoint::AzureImageEdits => Some(Form::Images),
        Endpoint::OpenAiSpeech | Endpoint::AzureDeploymentSpeech | Endpoint::AzureSpeech => Some(Form::Speech),
        Endpoint::OpenAiTranscriptions
        | Endpoint::OpenAiTranslations
        | Endpoint::AzureDeploymentTranscriptions
        | Endpoint::AzureDeploymentTranslations
        | Endpoint::AzureTranscriptions
        | Endpoint::AzureTranslations => Some(Form::Transcription),
        Endpoint::OpenAiRealtime | Endpoint::AzurePreviewRealtime | Endpoint::AzureRealtime => Some(Form::Realtime),
        Endpoint::AnthropicMessages | Endpoint::DeepSeekMessages => Some(Form::Messages),
        Endpoint::OpenAiModels
        | Endpoint::OpenAiModel
        | Endpoint::AzureModels
        | Endpoint::AnthropicModels
        | Endpoint::AnthropicModel
        | Endpoint::AnthropicCountTokens
        | Endpoint::DeepSeekModels
        | Endpoint::DeepSeekModel => None,
    }
}
